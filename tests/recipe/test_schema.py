from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedfm.errors import RecipeError
from fedfm.models.settings import ModelSettings
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.fields import all_keys, settings_classes


def test_the_defaults(values: dict[str, Any]) -> None:
    """The names and defaults that files rely on."""
    recipe = load_recipe(values)
    assert recipe.model_dump(
        include={"seed", "output", "run_dir", "public", "updates", "report_to", "allow_network"}
    ) == {
        "seed": 0,
        "output": "runs",
        "run_dir": None,
        "public": None,
        "updates": [],
        "report_to": [],
        "allow_network": False,
    }
    assert recipe.federation.model_dump() == {
        "clients": None,
        "per_round": None,
        "rounds": 20,
        "sampling": "uniform",
        "partition": None,
        "quorum": 0.5,
        "min_clients": None,
        "min_examples": 1,
        "holdout": 0.0,
        "ranks": None,
        "budgets": None,
        "label_groups": 1,
        "unseen": 0,
        "stream": None,
        "modalities": None,
        "models": [],
        "devices": [],
        "attackers": None,
        "presence": {},
        "without": [],
    }
    assert recipe.tune.model_dump() == {
        "kind": "lora",
        "share": None,
        "r": 8,
        "lora_alpha": 16,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "target_modules": "attention",
        "head": True,
    }
    assert recipe.algorithm.model_dump() == {"name": "fedavg"}
    assert recipe.evaluate.model_dump(exclude={"generate"}) == {
        "every": 1,
        "batch_size": 64,
        "at": "server",
        "metrics": "auto",
        "clients": 100,
        "patience": None,
        "baselines": [],
        "matrix": False,
    }
    assert recipe.checkpoint.model_dump() == {"every": 1, "keep": 2}


def test_a_group_without_its_kind_is_of_the_default_kind(values: dict[str, Any]) -> None:
    recipe = load_recipe(values | {"tune": {"r": 4}, "aggregate": {"weights": "uniform"}})
    assert recipe.tune.model_dump(include={"kind", "r"}) == {"kind": "lora", "r": 4}
    assert recipe.aggregate.rule == "mean"


@pytest.mark.parametrize(
    ("per_round", "clients", "cohort"),
    [(None, 100, 10), (None, 4, 4), (7, 100, 7), (0.1, 100, 10), (0.25, 10, 2), (0.01, 10, 1), (0.999, 1, 1)],
)
def test_cohort_size(values: dict[str, Any], per_round: Any, clients: int, cohort: int) -> None:
    recipe = load_recipe(values | {"federation": {"clients": 100, "per_round": per_round}})
    assert recipe.federation.cohort_size(clients) == cohort


def test_the_partition_follows_from_the_data(values: dict[str, Any]) -> None:
    assert load_recipe(values).partition.kind == "iid"
    assert load_recipe(values, ["data.client=who"]).partition.kind == "column"
    assert load_recipe(values, ["federation.partition.kind=shards"]).partition.kind == "shards"


def test_the_folder(values: dict[str, Any]) -> None:
    assert load_recipe(values).folder == Path("runs/test")
    assert load_recipe(values, ["output=out"]).folder == Path("out/test")
    assert load_recipe(values, ["run_dir=here/now", "output=out"]).folder == Path("here/now")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", "-x", ".hidden", "a b", "ä", "x\n", "x" * 101])
def test_a_name_must_be_safe_as_a_folder(values: dict[str, Any], name: str) -> None:
    with pytest.raises(RecipeError, match="name: "):
        load_recipe(values | {"name": name})


def test_the_constructor_tells_all_problems_too() -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(model={"path": 3}, task={"kind": "causal-lm"}, data={"train": "a", "test": "b"}, sede=1)  # type: ignore[call-arg, arg-type]
    assert {problem.where for problem in caught.value.problems} == {"name", "model.path", "sede"}


def test_the_constructor_takes_settings_objects(values: dict[str, Any]) -> None:
    assert Recipe(**(values | {"model": ModelSettings(path="builtin:tiny-bert")})) == load_recipe(values)


def test_a_recipe_validates_as_itself(values: dict[str, Any]) -> None:
    recipe = load_recipe(values)
    assert Recipe.model_validate(recipe) == recipe


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(3)


def test_a_recipe_cannot_be_changed(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        load_recipe(values).seed = 1


def test_every_key_explains_itself() -> None:
    def undocumented(model: Any, prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            found += [] if field.description else [prefix + name]
            for inner in settings_classes(field):
                found += undocumented(inner, f"{prefix}{name}.")
        return found

    assert undocumented(Recipe) == []


FIXED = """
    name seed output run_dir public updates report_to allow_network model.path model.revision model.dtype task.kind
    data.train data.validation data.test data.text data.label data.image data.client data.max_length data.limit
    federation.clients federation.per_round federation.rounds federation.sampling federation.partition
    federation.partition.alpha federation.partition.prior federation.quorum federation.min_clients
    local.epochs local.max_steps local.batch_size local.optimizer local.learning_rate local.lr_scheduler_type
    local.weight_decay local.max_grad_norm tune.kind tune.r tune.lora_alpha tune.lora_dropout tune.target_modules
    tune.head algorithm.name proxy.kind aggregate.rule privacy.kind runtime.kind runtime.stack runtime.device
    runtime.precision evaluate.every evaluate.batch_size evaluate.metrics
    tune.share federation.ranks federation.models federation.devices evaluate.at checkpoint.keep
"""


def test_the_names_that_the_design_fixes() -> None:
    known = {key.where for key in all_keys(Recipe)}
    assert set(FIXED.split()) <= known
