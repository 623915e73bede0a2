"""``gradient``: the second-order effect of a neuron on several read-outs, Σ (Σ_t aⱼₜ·∂ℓ/∂aⱼₜ)².

The outer sum is over public examples and read-outs ℓ, the inner one over an example's positions: the diagonal of the
Fisher information of a factor on the neuron (Kwon et al., arXiv:2204.09656). A read-out is a random linear function of
the pooled last hidden state, since the task's labels are not public. One read-out alone is a matter of chance: its draw
decides which neurons it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.models.families import blocks as all_blocks
from fedfm.progress import steps
from fedfm.proxies.fedpft.scores.base import Scoring
from fedfm.proxies.ffn import neurons, output_layer
from fedfm.proxies.precision import wide
from fedfm.proxies.trace import activations, hidden_states, real_positions
from fedfm.randomness import numpy_generator
from fedfm.tasks.base import Batch

READ_OUTS = 8
"""How many read-outs are summed."""


def score(scoring: Scoring) -> dict[str, Tensor]:
    """Effects, summed over examples and read-outs."""
    model, family = scoring.backbone.model, scoring.backbone.family
    stacks = groupby(all_blocks(model, family), key=lambda block: block.stack.path)
    last = [list(members)[-1] for _, members in stacks]
    totals = {block.path: torch.zeros(neurons(block), dtype=torch.float64) for block in scoring.blocks}
    model.eval()
    for batch in steps(scoring.batches, "scoring neurons"):
        with _differentiable(scoring.blocks), activations(scoring.blocks) as collected:
            states = hidden_states(model, last, batch)
        active = [collected[block.path] for block in scoring.blocks]
        for number in range(READ_OUTS):
            loss = torch.stack([_read_out(state, batch, path, scoring.seed, number) for path, state in states.items()])
            found = torch.autograd.grad(loss.sum(), active, retain_graph=number < READ_OUTS - 1)
            for block, values, slopes in zip(scoring.blocks, active, found, strict=True):
                totals[block.path] += _effects(values.detach() * slopes, batch).square().sum(0).cpu()
    return totals


@contextmanager
def _differentiable(blocks: Sequence[Block]) -> Iterator[None]:
    """Lets activations have gradients, although no parameter has."""
    with ExitStack() as hooks:
        for block in blocks:
            hook = output_layer(block).register_forward_pre_hook(lambda _, arguments: _require(arguments[0]))
            hooks.enter_context(hook)
        yield


def _require(values: Tensor) -> None:
    if not values.requires_grad:  # the first block's; later ones depend on it
        values.requires_grad_()


def _effects(products: Tensor, batch: Batch) -> Tensor:
    """Σ over an example's positions, float64 [B, m]."""
    examples = len(next(iter(batch.values())))
    return wide(products.reshape(examples, -1, products.shape[-1])).sum(1)


def _read_out(state: Tensor, batch: Batch, path: str, seed: int, number: int) -> Tensor:
    """Σ over examples of ⟨u, mean of ``state`` [B, T, d] over real positions⟩."""
    generator = numpy_generator(seed, f"read-out {number} of {path}")
    direction = torch.from_numpy(generator.standard_normal(state.shape[-1]))
    mask = batch.get("attention_mask")
    masks: Sequence[Tensor | None] = [None] * len(state) if mask is None else [*mask]
    pooled = torch.stack([real_positions(example, mask).mean(0) for example, mask in zip(state, masks, strict=True)])
    return (pooled @ direction.to(state.dtype).to(state.device)).sum()
