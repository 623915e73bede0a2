"""Behaviour of every tunable on every family; a new kind or family is tested because it is in the registry."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor
from transformers import AutoTokenizer

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.tunable import ENCODER, PROMPT, Tunable
from fedfm.params import digest
from tests.models.cases import GRID, REFUSED, SPARSE, TASKS, Case, batch, load, logits, small

FIXED = re.compile(r"(tinylora_[ABP]|vera_[AB]|shira_indices)(\.|$)")
"""What PEFT saves of a method but does not train: each end computes it from the backbone and the seed."""
UNUSED = "vision_model.post_layernorm."  # CLIP classifies without it


def attach(kind: str, case: Case, seed: int = 0) -> tuple[Backbone, Tunable]:
    backbone = load(*case)
    return backbone, small(kind).attach(backbone, task_type=TASKS[case[1]].task_type, seed=seed)


def step(tunable: Tunable, inputs: dict[str, Tensor], learning_rate: float = 0.1) -> list[str]:
    """Trains one step; the names of parameters without a gradient."""
    tunable.train(dropout=False)
    tunable.model(**inputs).logits.square().mean().backward()
    without = [name for name, parameter in tunable.parameters.items() if parameter.grad is None]
    with torch.no_grad():
        for parameter in tunable.parameters.values():
            if parameter.grad is not None:
                parameter -= learning_rate * parameter.grad.sign()
                parameter.grad = None
    return without


def case_id(value: object) -> str:
    return "-".join(value) if isinstance(value, tuple) else str(value)


grid = pytest.mark.parametrize(("kind", "case"), GRID, ids=case_id)
sparse = pytest.mark.parametrize(("kind", "case"), SPARSE, ids=case_id)


@pytest.mark.parametrize(("kind", "case"), sorted(REFUSED), ids=case_id)
def test_what_cannot_work_is_refused_with_its_key(kind: str, case: Case) -> None:
    with pytest.raises(RecipeError, match=r"tune\.kind: "):
        attach(kind, case)


@sparse
def test_names_are_those_that_peft_saves(kind: str, case: Case) -> None:
    _, tunable = attach(kind, case)
    if tunable.is_adapter and tunable.saves_parameters:
        saved = get_peft_model_state_dict(tunable.model, save_embedding_layers=False)
        read = tunable.read()
        travels = {name for name in read if not name.startswith(ENCODER)}
        assert all(torch.equal(read[name], saved[name]) for name in travels)
        others = [name for name in saved.keys() - travels if not FIXED.search(name)]
        assert others == ([] if travels == read.keys() else [PROMPT])
    elif not tunable.is_adapter:
        assert tunable.parameters.keys() <= tunable.model.state_dict().keys()
    assert list(tunable.parameters) == sorted(tunable.parameters)


@grid
def test_exactly_the_tunable_gets_gradients_and_moves(kind: str, case: Case) -> None:
    backbone, tunable = attach(kind, case)
    mine = {id(parameter) for parameter in tunable.parameters.values()}
    assert len(mine) == len(tunable.parameters)
    required = {id(parameter) for parameter in tunable.model.parameters() if parameter.requires_grad}
    assert required == mine
    frozen = {name: parameter for name, parameter in tunable.model.named_parameters() if id(parameter) not in mine}
    copies = copy.deepcopy({name: parameter.detach() for name, parameter in frozen.items()})
    without = step(tunable, batch(backbone))
    assert [name for name in without if UNUSED not in name] == []
    assert all(torch.equal(frozen[name], copies[name]) for name in frozen)


@sparse
def test_write_sets_what_read_gave(kind: str, case: Case) -> None:
    backbone, tunable = attach(kind, case)
    inputs = batch(backbone)
    before, start = tunable.read(), logits(tunable.model, inputs)
    step(tunable, inputs)
    after, moved = tunable.read(), logits(tunable.model, inputs)
    assert digest(before) != digest(after)  # read() gave copies
    assert not torch.allclose(start, moved, atol=1e-4)
    tunable.write(before)
    assert torch.equal(logits(tunable.model, inputs), start)
    tunable.write(after)
    assert torch.equal(logits(tunable.model, inputs), moved)
    assert digest(tunable.read()) == digest(after)


@grid
def test_saved_it_loads_with_peft_or_transformers_alone(kind: str, case: Case, tmp_path: Path) -> None:
    backbone, tunable = attach(kind, case)
    inputs = batch(backbone)
    step(tunable, inputs)
    expected = logits(tunable.model, inputs)
    tunable.save(tmp_path, backbone.processor)
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} <= {".json", ".safetensors", ".md"}
    if tunable.is_adapter:
        loaded = PeftModel.from_pretrained(load(*case, seed=99).model, str(tmp_path))  # another head than the trained
        config = loaded.active_peft_config
        assert (config.base_model_name_or_path, config.revision) == (backbone.name, backbone.revision)
    else:
        loaded = TASKS[case[1]].auto_class.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(logits(loaded, inputs), expected)
    if case[1] != "image":
        again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
        assert again("two", "texts").data == backbone.processor("two", "texts").data
        assert again.pad_token_id == backbone.processor.pad_token_id


@sparse
def test_merged_computes_the_same(kind: str, case: Case) -> None:
    backbone, tunable = attach(kind, case)
    inputs = batch(backbone)
    step(tunable, inputs)
    expected, params = logits(tunable.model, inputs), tunable.read()
    if tunable.is_adapter and tunable.model.active_peft_config.is_prompt_learning:
        with pytest.raises(RecipeError, match="nothing to merge"):
            tunable.merged()
        return
    merged = tunable.merged()
    assert type(merged) is type(load(*case).model)
    torch.testing.assert_close(logits(merged, inputs), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        next(merged.parameters()).add_(1)
    assert torch.equal(logits(tunable.model, inputs), expected)  # a copy: the tunable is as it was
    assert digest(tunable.read()) == digest(params)


@sparse
def test_the_seed_alone_decides_the_start(kind: str, case: Case) -> None:
    starts = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        starts.append(digest(attach(kind, case)[1].read()))
    assert starts[0] == starts[1]
    if kind in ("lora", "dora", "prompt", "p-tuning", "prefix"):
        assert digest(attach(kind, case, seed=1)[1].read()) != starts[0]


@pytest.mark.parametrize(("kind", "case"), [cell for cell in SPARSE if cell[1][1] != "image"], ids=case_id)
def test_padding_changes_nothing(kind: str, case: Case) -> None:
    backbone, tunable = attach(kind, case)
    step(tunable, batch(backbone))
    together = batch(backbone)
    alone = {name: tensor[:1, : together["attention_mask"][0].sum()] for name, tensor in together.items()}
    expected, padded = logits(tunable.model, alone), logits(tunable.model, together)[:1]
    if case[1] != "text":
        padded = padded[:, : expected.shape[1]]
    torch.testing.assert_close(padded, expected, atol=1e-5, rtol=1e-4)
