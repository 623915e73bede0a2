from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from fedfm.models.tunables import Lora, Prompt
from fedfm.proxies.ffn import output_layer, vectors
from fedfm.proxies.trace import activations, block_arguments, hidden_states, real_positions, run
from tests.models.cases import CASES, batch, load
from tests.proxies.small_proxy import blocks_of

gelu_tanh = partial(gelu, approximate="tanh")


@pytest.mark.parametrize(("name", "task"), [case for case in CASES if case[0] != "tiny-t5"])
@torch.no_grad()
def test_hidden_states_are_the_outputs_of_blocks(name: str, task: str) -> None:
    backbone = load(name, task)
    inputs = batch(backbone)
    states = hidden_states(backbone.model, blocks_of(backbone), inputs)
    assert list(states) == [block.path for block in blocks_of(backbone)]
    outputs = backbone.model(**inputs, output_hidden_states=True)
    decoding = backbone.model.config.is_encoder_decoder
    listed = outputs.decoder_hidden_states if decoding else outputs.hidden_states
    first, last = [state for path, state in states.items() if not path.startswith("encoder.block")]
    assert torch.equal(first, listed[1])
    if backbone.family.causal or decoding:  # transformers lists the state after the final norm in the last one's place
        assert not torch.allclose(last, listed[-1])
        last = backbone.model.base_model.get_submodule(backbone.family.final_norms[-1])(last)
    torch.testing.assert_close(last, listed[-1], rtol=0, atol=0)


@torch.no_grad()
def test_hidden_states_of_an_encoder_and_the_decoder_that_classifies() -> None:
    backbone = load("tiny-t5", "text")
    inputs = batch(backbone)
    states = hidden_states(backbone.model, blocks_of(backbone), inputs)
    given = backbone.model(**inputs, output_hidden_states=True)
    for half, listed in (("encoder", given.encoder_hidden_states), ("decoder", given.decoder_hidden_states)):
        assert torch.equal(states[f"{half}.block.0"], listed[1])
        norm = backbone.model.base_model.get_submodule(f"{half}.final_layer_norm")
        assert torch.equal(norm(states[f"{half}.block.1"]), listed[2])
    assert len(states) == 4


@torch.no_grad()
def test_an_adapter_is_part_of_the_model() -> None:
    backbone = load("tiny-bert", "text")
    inputs = batch(backbone)
    before = hidden_states(backbone.model, blocks_of(backbone), inputs)
    tunable = Lora(target_modules="all").attach(backbone, task_type="SEQ_CLS", seed=0)
    tunable.write({name: torch.full_like(value, 0.3) for name, value in tunable.read().items()})
    states = hidden_states(tunable.model, blocks_of(backbone), inputs)
    listed = tunable.model(**inputs, output_hidden_states=True).hidden_states
    for block, expected in zip(blocks_of(backbone), listed[1:], strict=True):
        assert torch.equal(states[block.path], expected)
        assert not torch.allclose(states[block.path], before[block.path])


@torch.no_grad()
def test_virtual_tokens_are_left_out() -> None:
    backbone = load("tiny-gpt2", "causal")
    inputs = batch(backbone)
    before = hidden_states(backbone.model, blocks_of(backbone), inputs)
    tunable = Prompt(num_virtual_tokens=3).attach(backbone, task_type="CAUSAL_LM", seed=0)
    states = hidden_states(tunable.model, blocks_of(backbone), inputs)
    assert all(torch.equal(states[path], before[path]) for path in before)


@pytest.mark.parametrize(("name", "task"), CASES)
@torch.no_grad()
def test_activations_go_into_the_output_matrix(name: str, task: str) -> None:
    backbone = load(name, task)
    found = blocks_of(backbone)
    outputs: dict[str, torch.Tensor] = {}
    for block in found:
        output_layer(block).register_forward_hook(
            lambda _, __, output, path=block.path: outputs.__setitem__(path, output)
        )
    with activations(found) as collected:
        run(backbone.model, batch(backbone))
    for block in found:
        assert collected[block.path].shape[-1] == 32
        assert torch.equal(output_layer(block)(collected[block.path]), outputs[block.path])
    kept = dict(collected)
    run(backbone.model, batch(backbone))
    assert all(collected[path] is kept[path] for path in kept)  # the hooks are gone


@pytest.mark.parametrize(("name", "function"), [("llama", silu), ("qwen3", silu), ("phi3", silu), ("gemma", gelu_tanh)])
@torch.no_grad()
def test_the_activation_of_a_gated_neuron_is_the_product_of_gate_and_up(
    name: str, function: Callable[[Tensor], Tensor]
) -> None:
    """Every score, regression and count of use reads these activations."""
    backbone = load(f"tiny-{name}", "causal")
    block = blocks_of(backbone)[0]
    read: list[Tensor] = []
    hook = block.module.mlp.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with activations([block]) as collected:
        run(backbone.model, batch(backbone))
    hook.remove()
    gate, up, _ = vectors(block)
    (inputs,) = read
    torch.testing.assert_close(collected[block.path], function(inputs @ gate.T) * (inputs @ up.T))


@pytest.mark.parametrize(("name", "task"), CASES)
@torch.no_grad()
def test_a_block_can_be_called_again_with_its_arguments(name: str, task: str) -> None:
    backbone = load(name, task)
    inputs = batch(backbone)
    states = hidden_states(backbone.model, blocks_of(backbone), inputs)
    for block in blocks_of(backbone):
        positional, named = block_arguments(backbone.model, block, inputs)
        output = block.module(*positional, **named)
        output = output[0] if isinstance(output, tuple) else output
        torch.testing.assert_close(output, states[block.path])


def test_a_failing_pass_leaves_no_hooks() -> None:
    backbone = load("tiny-bert", "text")
    with pytest.raises(ValueError, match="input_ids"):
        hidden_states(backbone.model, blocks_of(backbone), {"nonsense": torch.zeros(1)})
    assert not any(block.module._forward_hooks for block in blocks_of(backbone))


def test_real_positions_leave_padding_out() -> None:
    values = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    expected = torch.tensor([[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]])
    assert torch.equal(real_positions(values, mask), expected)
    assert torch.equal(real_positions(values.reshape(6, 2), mask), expected)
    assert torch.equal(real_positions(values[0], mask[0]), expected[:2])
    assert real_positions(values, None).shape == (6, 2)


@pytest.mark.parametrize("shape", [(2, 5, 2), (3, 2, 2), (1, 6, 2), (5, 2)])
def test_a_mask_of_other_positions_is_refused(shape: tuple[int, ...]) -> None:
    """Six positions of an image, say, are not those of a text: none of them is padding."""
    with pytest.raises(ValueError, match=r"a mask of shape \[2, 3\] does not fit the positions of"):
        real_positions(torch.zeros(shape), torch.ones(2, 3))
