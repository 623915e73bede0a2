"""Scores of FFN neurons; a proxy keeps the neurons with the highest scores.

``concat-l2`` is the paper's, ‖[w¹ⱼ, w²ⱼ]‖₂ over all weight vectors at neuron j (FedPFT, arXiv:2404.11536). ``product``
does not change when one vector is multiplied by a factor and another is divided by it. ``activation`` is
E|aⱼ|·‖w²ⱼ‖, which weighs weights by their inputs, as Wanda does (arXiv:2306.11695). ``gradient`` is the first-order
effect on a loss of removing the neuron, |Σ aⱼ·∂ℓ/∂aⱼ| (Molchanov et al., arXiv:1906.10771).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block
from fedfm.models.families import blocks as all_blocks
from fedfm.progress import steps
from fedfm.proxies.fedpft.activity import measure_activity, usage_scores
from fedfm.proxies.fedpft.settings import NeuronScore
from fedfm.proxies.ffn import output_layer, vectors
from fedfm.proxies.precision import wide
from fedfm.proxies.trace import hidden_states, real_positions
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch


def scores(
    backbone: Backbone, blocks: Sequence[Block], kind: NeuronScore, batches: Sequence[Batch], seed: int
) -> dict[str, Tensor]:
    """Scores of all neurons of some blocks, float64 [m] on the CPU, by block path; the highest are kept.

    Args:
        backbone: without a tunable; does not change.
        blocks: of the backbone.
        kind: of score.
        batches: public data; norms need none.
        seed: the recipe's seed; the loss of the score ``gradient`` derives from it.

    Raises:
        ValueError: ``activation`` or ``gradient`` without batches.
    """
    if kind in ("concat-l2", "product"):
        score = concat_l2 if kind == "concat-l2" else product
        return {block.path: score(block) for block in blocks}
    if not batches:
        raise ValueError(f"the score {kind} needs batches")
    if kind == "activation":
        activity = measure_activity(backbone.model, blocks, batches)
        return {block.path: -usage_scores("contribution", activity[block.path], block) for block in blocks}
    return _gradient(backbone, blocks, batches, seed)


def concat_l2(block: Block) -> Tensor:
    """‖[w¹ⱼ, w²ⱼ]‖₂, float64 [m]; a gated FFN has three vectors at a neuron. Biases do not count."""
    return torch.stack(_norms(block)).square().sum(0).sqrt()


def product(block: Block) -> Tensor:
    """‖w¹ⱼ‖·‖w²ⱼ‖, float64 [m]; a gated FFN has three factors."""
    return torch.stack(_norms(block)).prod(0)


def _norms(block: Block) -> list[Tensor]:
    """‖·‖₂ of each weight vector at each neuron, [m] a vector."""
    return [torch.linalg.vector_norm(wide(vector), dim=1).cpu() for vector in vectors(block)]


def _gradient(backbone: Backbone, blocks: Sequence[Block], batches: Sequence[Batch], seed: int) -> dict[str, Tensor]:
    """|Σ aⱼ·∂ℓ/∂aⱼ| over all positions and examples, ℓ a random linear read-out of the pooled last hidden state.

    With w²ⱼ the output vector, Σ aⱼ·∂ℓ/∂aⱼ = ⟨w²ⱼ, ∂ℓ/∂w²ⱼ⟩: no activation has to be kept.
    """
    weights = [output_layer(block).get_parameter("weight") for block in blocks]
    totals: dict[str, Tensor | float] = dict.fromkeys((block.path for block in blocks), 0.0)
    backbone.model.eval()
    for weight in weights:
        weight.requires_grad_()
    try:
        for batch in steps(batches, "scoring neurons"):
            gradients = torch.autograd.grad(_read_out(backbone, batch, seed), weights)
            for block, weight, gradient in zip(blocks, weights, gradients, strict=True):
                effect = (wide(weight) * wide(gradient)).sum(1 if block.stack.dense_ffn.transposed else 0)
                totals[block.path] += effect.cpu()
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    return {path: torch.as_tensor(total).abs() for path, total in totals.items()}


def _read_out(backbone: Backbone, batch: Batch, seed: int) -> Tensor:
    """Σ over examples of ⟨u, mean hidden state after the last block⟩, with a fixed random u, summed over all stacks."""
    found = all_blocks(backbone.model, backbone.family)
    last = [list(members)[-1] for _, members in groupby(found, key=lambda block: block.stack.path)]
    states = hidden_states(backbone.model, last, batch)
    return torch.stack([_pooled(state, batch, path, seed) for path, state in states.items()]).sum()


def _pooled(state: Tensor, batch: Batch, path: str, seed: int) -> Tensor:
    """Σ over examples of ⟨u, mean of ``state`` [B, T, d] over real positions⟩."""
    direction = torch.from_numpy(numpy_generator(seed, f"read-out of {path}").standard_normal(state.shape[-1]))
    mask = batch.get("attention_mask")
    masks: Sequence[Tensor | None] = [None] * len(state) if mask is None else [*mask]
    pooled = torch.stack([real_positions(example, mask).mean(0) for example, mask in zip(state, masks, strict=True)])
    return (pooled @ direction.to(state.dtype).to(state.device)).sum()
