"""A pass that stops before blocks reaches them with what an ordinary pass does, whatever the family."""

from __future__ import annotations

import pytest
import torch

from fedfm.models.tunables import Lora
from fedfm.proxies.ffn import output_layer
from fedfm.proxies.layerwise import LayerwisePass
from fedfm.proxies.trace import hidden_states
from tests.models.cases import CASES, CUT_KINDS, Case, load
from tests.proxies.small_proxy import blocks_of, public_batches


@pytest.mark.parametrize("case", [*CASES, *CUT_KINDS], ids="-".join)
@torch.no_grad()
def test_every_block_gives_what_it_gives_in_an_ordinary_pass(case: Case) -> None:
    backbone = load(*case)
    blocks, batches = blocks_of(backbone), public_batches(backbone, 2)
    expected = [hidden_states(backbone.model, blocks, batch) for batch in batches]
    passing = LayerwisePass(backbone.model, blocks, batches)
    for block in blocks:
        for states, call in zip(expected, passing.calls(block.path), strict=True):
            flow = call.run()
            state = flow.total
            if norm := block.stack.ffn_norm:
                state = block.module.get_submodule(norm)(state)
            torch.testing.assert_close(state.view_as(states[block.path]), states[block.path], rtol=0, atol=0)
            torch.testing.assert_close(output_layer(block)(flow.activations), flow.output)
    for states, batch in zip(expected, batches, strict=True):  # nothing is left behind
        again = hidden_states(backbone.model, blocks, batch)
        assert all(torch.equal(states[path], again[path]) for path in states)


@torch.no_grad()
def test_blocks_may_be_left_out_and_run_once_a_batch() -> None:
    backbone = load("tiny-llama", "causal")
    tunable = Lora(target_modules="all").attach(backbone, task_type="CAUSAL_LM", seed=0)
    blocks, batches = blocks_of(backbone), public_batches(backbone, 3)
    runs = dict.fromkeys((block.path for block in blocks), 0)

    def count(path: str) -> None:
        runs[path] += 1

    for block in blocks:
        block.module.input_layernorm.register_forward_hook(lambda *_, path=block.path: count(path))
    passing = LayerwisePass(tunable.model, blocks, batches)
    assert len(list(passing.calls(blocks[1].path))) == 3
    assert runs == {blocks[0].path: 3, blocks[1].path: 0}
    assert len(list(passing.calls(blocks[1].path))) == 3
    assert runs == {blocks[0].path: 3, blocks[1].path: 0}


@pytest.mark.parametrize("case", [*CASES, *CUT_KINDS], ids="-".join)
@torch.no_grad()
def test_blocks_that_do_not_change_run_once(case: Case) -> None:
    backbone = load(*case)
    blocks, batches = blocks_of(backbone), public_batches(backbone, 2)
    expected = [hidden_states(backbone.model, blocks, batch) for batch in batches]
    runs: list[str] = []
    for block in blocks:
        output_layer(block).register_forward_hook(lambda *_, path=block.path: runs.append(path))
    passing = LayerwisePass(backbone.model, blocks, batches, changes=False)
    for block in blocks[1:]:
        for states, call in zip(expected, passing.calls(block.path), strict=True):
            state = call.run().total
            if norm := block.stack.ffn_norm:
                state = block.module.get_submodule(norm)(state)
            torch.testing.assert_close(state.view_as(states[block.path]), states[block.path], rtol=0, atol=0)
    assert sorted(runs) == sorted(block.path for block in blocks for _ in batches)


@torch.no_grad()
def test_a_block_that_was_changed_before_it_ran_counts_as_changed() -> None:
    backbone = load("tiny-bert", "text")
    blocks, batches = blocks_of(backbone), public_batches(backbone, 1)
    passing = LayerwisePass(backbone.model, blocks, batches)
    list(passing.calls(blocks[0].path))
    output_layer(blocks[0]).weight.mul_(2)
    (call,) = passing.calls(blocks[1].path)
    states = hidden_states(backbone.model, blocks, batches[0])
    assert torch.equal(call.positional[0], states[blocks[0].path])


@torch.no_grad()
def test_it_does_not_go_back() -> None:
    backbone = load("tiny-bert", "text")
    blocks = blocks_of(backbone)
    passing = LayerwisePass(backbone.model, blocks, public_batches(backbone, 1))
    list(passing.calls(blocks[1].path))
    with pytest.raises(ValueError, match="the pass is behind"):
        list(passing.calls(blocks[0].path))


@pytest.mark.parametrize("case", [*CASES, *CUT_KINDS], ids="-".join)
@torch.no_grad()
def test_norms_and_scales_on_the_way_from_the_ffn_are_seen(case: Case) -> None:
    backbone = load(*case)
    blocks = blocks_of(backbone)
    for name, parameter in backbone.model.named_parameters():
        if name.endswith("layer_scale2.lambda1"):  # 1 in a new model
            parameter.fill_(0.5)
    (call,) = LayerwisePass(backbone.model, blocks, public_batches(backbone, 1)).calls(blocks[0].path)
    changes = {"gemma2", "gemma3", "olmo2", "dinov2", "granite"}  # norms after the FFN, or a scale of the residual
    assert call.adds_output() is not (backbone.model.config.model_type.removesuffix("_text") in changes)
