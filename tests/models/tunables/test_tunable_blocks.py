"""Tunables of a backbone of which only some blocks may be tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import blocks
from fedfm.models.tunable import Tunable
from fedfm.models.tunables import IA3, BitFit, Dora, Full, Head, Lora, Norms, Prompt, TuneSettings, WaveFT
from tests.models.cases import TASKS, Case, batch, logits
from tests.models.deep import deep

ENDS = (0, 11)
"""Of twelve layers: 1 begins 11, and peft matches names by their ends."""
SETTINGS: list[TuneSettings] = [
    Lora(r=2),
    Lora(r=2, target_modules="ffn"),
    Lora(r=2, target_modules="all"),
    Dora(r=2),
    IA3(),
    WaveFT(n_frequency=20),
    BitFit(),
    Norms(),
    Full(),
]
DEEP_CASES: list[Case] = [("tiny-bert", "text"), ("tiny-gpt2", "causal"), ("tiny-opt", "text"), ("tiny-clip", "image")]
grid = pytest.mark.parametrize("case", DEEP_CASES, ids="-".join)
kinds = pytest.mark.parametrize("tune", SETTINGS, ids=lambda tune: f"{tune.kind}-{getattr(tune, 'target_modules', '')}")


def ends(case: Case, layers: int = 12, tuned: tuple[int, ...] = ENDS) -> Backbone:
    backbone = deep(*case, layers)
    paths = [block.path for block in blocks(backbone.model, backbone.family)]
    return replace(backbone, tunable_blocks=tuple(paths[layer] for layer in tuned))


def attach(tune: TuneSettings, backbone: Backbone, case: Case) -> Tunable:
    return tune.attach(backbone, task_type=TASKS[case[1]].task_type, seed=0)


@kinds
@grid
def test_what_is_tuned_is_in_those_blocks_or_the_head(tune: TuneSettings, case: Case) -> None:
    backbone = ends(case)
    whole = attach(tune, replace(deep(*case, 12), tunable_blocks=None), case)
    part = attach(tune, backbone, case)
    assert backbone.tunable_blocks is not None

    def belongs(name: str) -> bool:
        return any(f".{path}." in f".{name}" for path in backbone.tunable_blocks or ()) or any(
            name.removeprefix("base_model.model.").startswith(f"{head}.") for head in backbone.head
        )

    assert list(part.parameters) == [name for name in whole.parameters if belongs(name)]
    assert len(part.parameters) < len(whole.parameters)
    required = {id(parameter) for parameter in part.model.parameters() if parameter.requires_grad}
    assert required == {id(parameter) for parameter in part.parameters.values()}


@kinds
@grid
def test_saved_it_loads_on_the_whole_model(tune: TuneSettings, case: Case, tmp_path: Path) -> None:
    backbone = ends(case)
    tunable = attach(tune, backbone, case)
    torch.manual_seed(0)
    tunable.write({name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in tunable.read().items()})
    tunable.save(tmp_path, backbone.processor)
    if tunable.is_adapter:
        loaded = PeftModel.from_pretrained(deep(*case, 12).model, str(tmp_path))
    else:
        loaded = TASKS[case[1]].auto_class.from_pretrained(tmp_path, local_files_only=True)
    inputs = batch(backbone)
    expected = logits(tunable.model, inputs)
    assert not torch.allclose(expected, logits(deep(*case, 12).model, inputs), atol=1e-3)
    assert torch.equal(logits(loaded, inputs), expected)


def test_so_many_modules_that_peft_shortens_their_list_load_too(tmp_path: Path) -> None:
    """From 20 names on peft keeps endings that tell them from all others."""
    case = ("tiny-bert", "text")
    tune = IA3(target_modules=["query", "key", "intermediate.dense"], feedforward_modules=["intermediate.dense"])
    backbone = ends(case, tuned=(0, 1, 2, 3, 8, 9, 10, 11))
    tunable = attach(tune, backbone, case)
    assert len([name for name in tunable.parameters if "ia3" in name]) == 8 * 3
    torch.manual_seed(0)
    tunable.write({name: torch.rand_like(tensor) for name, tensor in tunable.read().items()})
    tunable.save(tmp_path, backbone.processor)
    loaded = PeftModel.from_pretrained(deep(*case, 12).model, str(tmp_path))
    assert torch.equal(logits(loaded, batch(backbone)), logits(tunable.model, batch(backbone)))


def test_the_users_pattern_holds_inside_those_blocks() -> None:
    case = ("tiny-bert", "text")
    tunable = attach(Lora(r=2, target_modules=r".*\.(query|value)", head=True), ends(case), case)
    names = {name.removeprefix("base_model.model.bert.encoder.layer.") for name in tunable.parameters if "lora" in name}
    assert names == {
        f"{layer}.attention.self.{matrix}.lora_{factor}.weight"
        for layer in ENDS
        for matrix in ("query", "value")
        for factor in "AB"
    }


@pytest.mark.parametrize("targets", [r".*layer\.5\..*query", ["pooler.dense"]])
def test_what_matches_only_elsewhere_is_refused_with_what_is_tuned(targets: str | list[str]) -> None:
    case = ("tiny-bert", "text")
    with pytest.raises(RecipeError, match=r"matches .* in the tunable blocks encoder\.layer\.0, encoder\.layer\.11;"):
        attach(Lora(target_modules=targets), ends(case), case)


@pytest.mark.parametrize("tune", [Head(), Prompt(num_virtual_tokens=2)], ids=lambda tune: tune.kind)
def test_head_and_prompt_are_in_no_block(tune: TuneSettings) -> None:
    case = ("tiny-bert", "text")
    assert list(attach(tune, ends(case), case).parameters) == list(attach(tune, deep(*case, 12), case).parameters)


@pytest.mark.parametrize("tune", [Full(), BitFit(), Head()], ids=lambda tune: tune.kind)
def test_a_models_own_parameters_are_tuned_as_copies(tune: TuneSettings) -> None:
    """A proxy shares its parameters with the backbone, which must not move with it."""
    case = ("tiny-bert", "text")
    backbone = deep(*case, 2)
    shared = dict(backbone.model.named_parameters())
    before = {name: parameter.clone() for name, parameter in shared.items()}
    tunable = attach(tune, backbone, case)
    start = tunable.read()
    assert all(torch.equal(start[name], before[name]) for name in start)
    tunable.write({name: tensor + 1 for name, tensor in start.items()})
    assert all(torch.equal(shared[name], before[name]) for name in shared)
    assert not any(parameter.requires_grad for parameter in shared.values())
    now = dict(tunable.model.named_parameters())
    assert all(now[name] is shared[name] for name in shared.keys() - start.keys())


def test_tied_matrices_stay_tied() -> None:
    tunable = attach(Full(), deep("tiny-llama", "causal", 2), ("tiny-llama", "causal"))
    assert tunable.model.lm_head.weight is tunable.model.model.embed_tokens.weight
