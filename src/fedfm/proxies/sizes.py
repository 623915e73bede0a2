"""What a proxy costs a client."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from fedfm.models.families import Block, Family, blocks
from fedfm.models.tunable import Tunable
from fedfm.proxies.folder import plain_tensors
from fedfm.randomness import torch_seed
from fedfm.tasks.base import Batch


def block_parameters(model: PreTrainedModel, family: Family) -> int:
    """Parameters of all blocks without adapters, the papers' "encoder parameters": no embeddings, final norms, head."""
    found = {
        id(weight): weight
        for block in blocks(model, family)
        for _, weight in plain_tensors(block.module)
        if isinstance(weight, nn.Parameter)
    }
    return sum(weight.numel() for weight in found.values())


def forward_flops(model: PreTrainedModel, family: Family, tokens: int) -> int:
    """Floating-point operations of one example's forward pass through all blocks.

    Counted are matrix products, 2·in·out a token and matrix, and the two products of attention scores, 4·T²·d; of a
    causal model in full, as kernels compute them. Embeddings, norms, activations, adapters and head are left out.

    Args:
        model: of any size; may be on the meta device.
        family: of the model.
        tokens: T, the length of the sequence in every stack: words, or an image's patches.
    """
    return sum(_block_flops(block, tokens) for block in blocks(model, family))


def _block_flops(block: Block, tokens: int) -> int:
    weights = [block.module.get_parameter(f"{path}.weight") for path in block.stack.matrices]
    flops = sum(2 * weight.numel() * tokens for weight in weights)
    for attention in block.stack.attention:
        output = block.module.get_parameter(f"{attention.output}.weight")
        flops += 4 * tokens**2 * output.shape[0 if attention.transposed else 1]
    return flops


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training a tunable holds at once.

    A lower bound: scratch space of kernels, gradients of activations and the runtime itself are not counted.

    Attributes:
        weights: all parameters and buffers, the tunable's included.
        activations: what autograd keeps from the forward pass for the backward pass.
        optimiser: gradients and AdamW's two moments of the tunable's parameters.
    """

    weights: int
    activations: int
    optimiser: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.activations + self.optimiser


def training_memory(tunable: Tunable, batch: Batch) -> TrainingMemory:
    """The memory of a training step, measured by one forward pass that records what autograd keeps.

    Args:
        tunable: on any device but meta; left as it was, in evaluation mode.
        batch: of the size and length to train at; the loss counts if it has ``labels`` that the model takes.
    """
    model = tunable.model
    held = [*model.parameters(), *model.buffers()]
    inputs = {name: tensor.to(held[0].device) for name, tensor in batch.items()}
    weights = _storages(held)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.update(_storages([tensor]))
        return tensor

    tunable.train()
    try:
        with torch_seed(0, "memory"), torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(**inputs)  # holds the graph, so that no storage is reused while it is counted
    finally:
        tunable.eval()
    del outputs
    known = weights.keys() | _storages(list(inputs.values())).keys()
    return TrainingMemory(
        weights=sum(weights.values()),
        activations=sum(size for storage, size in kept.items() if storage not in known),
        optimiser=sum(3 * weight.numel() * weight.element_size() for weight in tunable.parameters.values()),
    )


def _storages(tensors: list[Tensor]) -> dict[int, int]:
    """Bytes of the memory behind tensors, by its address: views of one memory count once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
