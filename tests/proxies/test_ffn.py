"""FFNs as sets of neurons: three known neurons, stored in every way that families store them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedfm.models.families import FFN, Block, Stack
from fedfm.proxies.fedpft.scores.norms import concat_l2, product
from fedfm.proxies.ffn import (
    NeuronTensor,
    keep_neurons,
    neuron_tensors,
    neurons,
    output_bias,
    output_layer,
    vectors,
)

FIRST = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])  # a row a neuron
SECOND = torch.tensor([[6.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
OUT = torch.tensor([[0.0, 12.0], [2.0, 2.0], [1.0, 2.0]])  # a row a neuron: its output vector
BIAS, OUT_BIAS = torch.tensor([0.5, -0.25, 1.0]), torch.tensor([10.0, -10.0])


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Of a weight [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


def transposed(weight: Tensor, bias: Tensor) -> Conv1D:
    """Of a weight [out, in], which it stores the other way round."""
    layer = Conv1D(weight.shape[0], weight.shape[1])
    layer.weight.data, layer.bias.data = weight.T.clone(), bias.clone()
    return layer


class Plain(nn.Module):
    """BERT: one input matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = linear(FIRST, BIAS), linear(OUT.T, OUT_BIAS)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x).relu())
        return out


class Transposed(Plain):
    """GPT-2: weights are stored [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = transposed(FIRST, BIAS), transposed(OUT.T, OUT_BIAS)


class Gated(nn.Module):
    """Llama: gate and up, no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = linear(FIRST), linear(SECOND), linear(OUT.T)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.gate(x).sigmoid() * self.up(x))
        return out


class Fused(nn.Module):
    """Phi-3: gate and up are one matrix, gate first."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = linear(torch.cat([FIRST, SECOND])), linear(OUT.T)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, dim=-1)
        out: Tensor = self.down(gate.sigmoid() * up)
        return out


def block(module: nn.Module, ffn: FFN) -> Block:
    return Block("blocks.0", module, Stack("blocks", attention=(), ffn=ffn, norms=()))


MAKES: dict[str, Callable[[], Block]] = {
    "plain": lambda: block(Plain(), FFN(("up",), "down")),
    "transposed": lambda: block(Transposed(), FFN(("up",), "down", transposed=True)),
    "gated": lambda: block(Gated(), FFN(("gate", "up"), "down")),
    "fused": lambda: block(Fused(), FFN(("both",), "down", fused=True)),
}
makes = pytest.mark.parametrize("make", MAKES)
VECTORS = {
    "plain": [FIRST, OUT],
    "transposed": [FIRST, OUT],
    "gated": [FIRST, SECOND, OUT],
    "fused": [FIRST, SECOND, OUT],
}


@makes
def test_vectors_are_those_at_each_neuron(make: str) -> None:
    made = MAKES[make]()
    assert neurons(made) == 3
    found = vectors(made)
    assert len(found) == len(VECTORS[make])
    for vector, expected in zip(found, VECTORS[make], strict=True):
        assert torch.equal(vector, expected)


@makes
def test_norms_are_those_counted_by_hand(make: str) -> None:
    """Neuron 0: 5² + 12² = 13²; neuron 1: 1 + 8 = 3²; neuron 2: 4 + 5 = 3²; the second vector adds 36, 1 and 5."""
    second = [36.0, 1.0, 5.0] if make in ("gated", "fused") else [0.0, 0.0, 0.0]
    expected = [(169 + second[0]) ** 0.5, (9 + second[1]) ** 0.5, (9 + second[2]) ** 0.5]
    assert concat_l2(MAKES[make]()).tolist() == pytest.approx(expected)
    lengths = [6.0, 1.0, 5**0.5] if make in ("gated", "fused") else [1.0, 1.0, 1.0]
    products = [5 * 12 * lengths[0], 1 * 8**0.5 * lengths[1], 2 * 5**0.5 * lengths[2]]
    assert product(MAKES[make]()).tolist() == pytest.approx(products)


@makes
@pytest.mark.parametrize("kept", [[0], [1], [0, 2], [1, 2], [0, 1, 2]])
def test_kept_neurons_compute_what_they_did(make: str, kept: list[int]) -> None:
    whole, cut = MAKES[make](), MAKES[make]()
    keep_neurons(cut, torch.tensor(kept))
    assert neurons(cut) == len(kept)
    output = output_layer(whole).get_parameter("weight").data
    gone = [neuron for neuron in range(3) if neuron not in kept]
    (output if whole.stack.ffn.transposed else output.T)[gone] = 0
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut.module(x), whole.module(x))


@makes
def test_cutting_makes_new_parameters_and_leaves_the_old_ones_alone(make: str) -> None:
    made = MAKES[make]()
    made.module.requires_grad_(False)
    before = dict(made.module.named_parameters())
    values = {name: parameter.clone() for name, parameter in before.items()}
    keep_neurons(made, torch.tensor([0, 2]))
    cut = {tensor.name for tensor in neuron_tensors(made)}
    for name, parameter in made.module.named_parameters():
        assert (parameter is before[name]) is (name not in cut)
        assert not parameter.requires_grad
        assert torch.equal(before[name], values[name])


@makes
def test_modules_tell_the_sizes_of_their_weights(make: str) -> None:
    made = MAKES[make]()
    keep_neurons(made, torch.tensor([0, 2]))
    for module in made.module.children():
        if isinstance(module, Conv1D):
            assert (module.nx, module.nf) == tuple(module.weight.shape)
        else:
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)


def test_neuron_tensors_name_every_slice_and_the_axis_that_counts_neurons() -> None:
    found = {make: [(t.name, t.axis, t.copies) for t in neuron_tensors(MAKES[make]())] for make in MAKES}
    assert found == {
        "plain": [("up.weight", 0, 1), ("up.bias", 0, 1), ("down.weight", 1, 1)],
        "transposed": [("up.weight", 1, 1), ("up.bias", 0, 1), ("down.weight", 0, 1)],
        "gated": [("gate.weight", 0, 1), ("up.weight", 0, 1), ("down.weight", 1, 1)],
        "fused": [("both.weight", 0, 2), ("down.weight", 1, 1)],
    }


def test_the_outputs_bias_is_no_neurons() -> None:
    assert {make: output_bias(MAKES[make]()) for make in MAKES} == {
        "plain": "down.bias",
        "transposed": "down.bias",
        "gated": None,
        "fused": None,
    }


def test_slices_of_two_copies_are_found_in_both() -> None:
    both = NeuronTensor("both.weight", 0, copies=2)
    weight = torch.cat([FIRST, SECOND])
    chosen = torch.tensor([0, 2])
    assert both.size(weight) == 3
    assert both.index(chosen, 3).tolist() == [0, 2, 3, 5]
    assert torch.equal(both.take(weight, chosen), torch.stack([FIRST[0], FIRST[2], SECOND[0], SECOND[2]]))
    mask = both.mask(weight, torch.tensor([True, False, True]))
    assert mask.flatten().tolist() == [True, False, True, True, False, True]
    assert (weight * mask).shape == weight.shape


@makes
def test_a_mask_leaves_the_chosen_neurons_slices(make: str) -> None:
    made = MAKES[make]()
    for tensor in neuron_tensors(made):
        weight = made.module.get_parameter(tensor.name).detach()
        masked = weight * tensor.mask(weight, torch.tensor([False, True, False]))
        assert torch.equal(tensor.take(masked, torch.tensor([1])), tensor.take(weight, torch.tensor([1])))
        assert not tensor.take(masked, torch.tensor([0, 2])).any()


@makes
def test_vectors_share_gradients_with_the_parameters(make: str) -> None:
    made = MAKES[make]()
    sum(vector[1].sum() for vector in vectors(made)).backward()
    for tensor in neuron_tensors(made):
        parameter = made.module.get_parameter(tensor.name)
        if parameter.dim() == 2:
            assert parameter.grad is not None
            assert tensor.take(parameter.grad, torch.tensor([1])).eq(1).all()
            assert not tensor.take(parameter.grad, torch.tensor([0, 2])).any()
