"""Access to the neurons of a block's FFN, for every family's way to store them.

Neuron j of m is a slice of every *neuron tensor*: its input vectors and biases, and its output vector. The output's
bias does not belong to any neuron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedfm.models.families import Block

Kept = dict[str, Tensor]
"""Indices of the neurons that stay, int64 [m'] ascending, by the path of each block with fewer neurons."""


@dataclass(frozen=True)
class NeuronTensor:
    """A parameter of a block in which each neuron has a slice.

    Attributes:
        name: from the block, e.g. ``intermediate.dense.weight``.
        axis: the axis that counts neurons.
        copies: slices of each neuron on that axis: 2 where gate and up are one matrix, else 1.
    """

    name: str
    axis: int
    copies: int = 1

    def size(self, tensor: Tensor) -> int:
        """How many neurons' slices ``tensor`` holds."""
        return tensor.shape[self.axis] // self.copies

    def index(self, neurons: Tensor, total: int) -> Tensor:
        """Where the slices of some of ``total`` neurons are on the axis, int64 [copies · len(neurons)]."""
        return torch.cat([neurons + copy * total for copy in range(self.copies)])

    def take(self, tensor: Tensor, neurons: Tensor) -> Tensor:
        """A copy of these neurons' slices, in the order given."""
        return tensor.index_select(self.axis, self.index(neurons, self.size(tensor)).to(tensor.device))

    def mask(self, tensor: Tensor, chosen: Tensor) -> Tensor:
        """``chosen`` (bool [m]) shaped to multiply ``tensor``."""
        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        return chosen.to(tensor.device).repeat(self.copies).view(shape)


def neuron_tensors(block: Block) -> list[NeuronTensor]:
    """Input weights, their biases where there are any, and the output weight."""
    ffn = block.stack.dense_ffn
    found: list[NeuronTensor] = []
    copies = 2 if ffn.fused else 1
    for path in ffn.inputs:
        found.append(NeuronTensor(f"{path}.weight", 1 if ffn.transposed else 0, copies))
        if block.module.get_submodule(path).bias is not None:
            found.append(NeuronTensor(f"{path}.bias", 0, copies))
    return [*found, NeuronTensor(f"{ffn.output}.weight", 0 if ffn.transposed else 1)]


def output_bias(block: Block) -> str | None:
    """Name of the output's bias, from the block."""
    ffn = block.stack.dense_ffn
    return f"{ffn.output}.bias" if block.module.get_submodule(ffn.output).bias is not None else None


def output_layer(block: Block) -> nn.Module:
    """The output matrix's module; its input is the neurons' activations, ``[…, m]``."""
    return block.module.get_submodule(block.stack.dense_ffn.output)


def neurons(block: Block) -> int:
    """How many neurons the FFN has, m."""
    weight = block.module.get_parameter(f"{block.stack.dense_ffn.output}.weight")
    return weight.shape[0 if block.stack.dense_ffn.transposed else 1]


def vectors(block: Block) -> list[Tensor]:
    """Every weight vector at each neuron, ``[m, d]``: input vectors (two where gated), then the output vector.

    Biases are not among them. The tensors are views of the parameters, which share their gradients.
    """
    found: list[Tensor] = []
    for tensor in neuron_tensors(block):
        weight = block.module.get_parameter(tensor.name)
        if weight.dim() == 2:
            found += (weight if tensor.axis == 0 else weight.T).chunk(tensor.copies)
    return found


def keep_neurons(block: Block, kept: Tensor) -> None:
    """Cuts all other neurons out of the FFN, in place, by replacing its parameters.

    Args:
        block: of a model.
        kept: int64 [m'], ascending.
    """
    matrices = {path: block.module.get_submodule(path) for path in block.stack.ffn_matrices}
    for tensor in neuron_tensors(block):
        path, name = tensor.name.rsplit(".", 1)
        before = matrices[path].get_parameter(name)
        after = nn.Parameter(tensor.take(before.detach(), kept), requires_grad=before.requires_grad)
        matrices[path].register_parameter(name, after)
    for module in matrices.values():
        _update_sizes(module)


def _update_sizes(module: nn.Module) -> None:
    """Sets the size attributes of a matrix's module to the shape of its weight."""
    weight = module.get_parameter("weight")
    if isinstance(module, Conv1D):
        module.nx, module.nf = weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
