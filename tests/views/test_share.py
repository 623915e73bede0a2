"""Personal parts: which tensors travel, by the names of real tunables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.models.backbones import load_backbone
from fedfm.models.families import FAMILIES
from fedfm.models.settings import ModelSettings
from fedfm.models.tunables import TUNABLES
from fedfm.spec import Spec, TensorSpec
from fedfm.tasks import TASKS
from fedfm.views import Share, Views
from fedfm.views.share import HEADS, in_head
from tests.models.cases import CASES

LORA: Spec = {
    name: TensorSpec((2, 2))
    for name in (
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight",
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight",
        "base_model.model.classifier.bias",
        "base_model.model.classifier.weight",
    )
}
A, B, BIAS, WEIGHT = LORA


def recipe(share: Any) -> Any:
    return SimpleNamespace(
        seed=0,
        tune=SimpleNamespace(kind="lora", r=8, share=share),
        federation=SimpleNamespace(ranks=None, budgets=None, modalities=None),
        aggregate=SimpleNamespace(schedules=False),
        task=SimpleNamespace(outputs_held=None),
        algorithm=SimpleNamespace(task_rank=None),
    )


@pytest.mark.parametrize(
    ("share", "shared"),
    [
        ("*lora_*", {A, B}),
        ("*lora_A*", {A}),
        ("head", {BIAS, WEIGHT}),
        ("not head", {A, B}),
        (["*lora_A*", "head"], {A, BIAS, WEIGHT}),
        (["*lora_*", "not *lora_B*"], {A}),
        (["not head", "not *lora_B*"], {A}),
        (["head", "not *.bias"], {WEIGHT}),
        ("*", set(LORA)),
    ],
)
def test_what_travels_and_what_is_personal(share: Any, shared: set[str]) -> None:
    views = Views.of(recipe(share))
    assert set(views.held(LORA, "a", 1)) == shared
    assert set(views.gets(LORA, "a", 1)) == shared
    assert views.personal(LORA) == set(LORA) - shared


@pytest.mark.parametrize("share", ["lora", ["*", "not *Lora*"], ["head", "*.gamma"]])
def test_a_pattern_that_matches_nothing_is_refused_with_a_name_that_is_there(share: Any) -> None:
    with pytest.raises(RecipeError, match=r"tune\.share.*matches no tensor.*query\.lora_A\.weight"):
        Views.of(recipe(share)).personal(LORA)


def test_the_word_head_is_refused_where_there_is_no_head() -> None:
    with pytest.raises(RecipeError, match="`head` matches no tensor"):
        Share(("head",)).held({A: LORA[A]}, "a", 1)


def test_something_travels() -> None:
    with pytest.raises(RecipeError, match="nothing would travel"):
        Share(("*lora*", "not *lora_A*", "not *lora_B*")).held(LORA, "a", 1)


def test_every_familys_heads_are_known() -> None:
    for family in FAMILIES.values():
        for path in (*family.heads, *family.language_heads):
            assert path.split(".")[0] in HEADS or "pooler" in path.split("."), (family.name, path)


TASK_OF = {"text": "text-classification", "image": "image-classification"}


@pytest.mark.parametrize(("name", "task_name"), [(name, TASK_OF[task]) for name, task in CASES if task in TASK_OF])
def test_the_head_of_every_family_is_what_its_backbone_calls_head(name: str, task_name: str) -> None:
    task = TASKS[task_name]()
    for kind in ("lora", "full"):
        backbone = load_backbone(ModelSettings(path=f"builtin:{name}"), task.auto_class, seed=0, labels=["a", "b"])
        tunable = TUNABLES[kind](kind=kind).attach(backbone, task_type=task.peft_type, seed=0)
        expected = {
            parameter
            for parameter in tunable.parameters
            if any(parameter.removeprefix("base_model.model.").startswith(f"{head}.") for head in backbone.head)
            or ".pooler." in parameter  # of the base model, and trained with it by `full`
        }
        assert expected
        assert {parameter for parameter in tunable.parameters if in_head(parameter)} == expected
