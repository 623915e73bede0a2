"""``reconstruct``: greedily, the neurons from which linear regression restores the FFN's output best.

With a the activations of all m neurons at real positions, centred, G = Σ aaᵀ, and C = G·W₂ their products with the
FFN's output, neurons S explain Σ_k c_{S,k}ᵀ (G_SS + λI)⁻¹ c_{S,k} of the output's variance by ridge regression. Each
step takes the neuron that adds most; a Cholesky factor of G + λI, one column a step, gives that in O(m·d). Statistics
know it as forward selection by orthogonal least squares (Chen, Billings and Luo, 1989).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.models.families import blocks as all_blocks
from fedfm.progress import steps
from fedfm.proxies.fedpft.scores.base import Scoring
from fedfm.proxies.ffn import neurons, vectors
from fedfm.proxies.layerwise import LayerwisePass
from fedfm.proxies.precision import wide

RIDGE = 0.01
"""λ as a share of the mean of G's diagonal."""


@torch.no_grad()
def score(scoring: Scoring) -> dict[str, Tensor]:
    """The neuron taken first has the highest score; those that are not taken have 0."""
    model = scoring.backbone.model.eval()
    passing = LayerwisePass(model, all_blocks(model, scoring.backbone.family), scoring.batches, changes=False)
    found: dict[str, Tensor] = {}
    for block in steps(scoring.blocks, "choosing neurons"):
        gram = _centred_gram(passing, block)
        output = wide(vectors(block)[-1]).to(gram.device)
        order = greedy_order(gram, output, scoring.counts[block.path]).cpu()
        taken = torch.zeros(neurons(block), dtype=torch.float64)
        taken[order] = torch.arange(len(order), 0, -1, dtype=torch.float64)
        found[block.path] = taken
    return found


def _centred_gram(passing: LayerwisePass, block: Block) -> Tensor:
    """Σ (a − ā)(a − ā)ᵀ over real positions, float64 [m, m]; products within a batch are in the model's precision."""
    width = neurons(block)
    weight = vectors(block)[-1]
    count, total, gram = 0, wide(weight.new_zeros(width)), wide(weight.new_zeros(width, width))
    for call in passing.calls(block.path):
        activations, _, _ = call.run().real()
        activations = activations.float()
        centre = activations.mean(0)  # of the batch, so that its products lose no digits to the mean
        rest, here = activations - centre, len(activations)
        if not here:
            continue
        shift = wide(centre) - (total / count if count else 0.0)
        gram += wide(rest.T @ rest) + torch.outer(shift, shift) * (count * here / (count + here))
        total += wide(centre) * here
        count += here
    return gram


def greedy_order(gram: Tensor, output: Tensor, count: int) -> Tensor:
    """The neurons in the order in which they are taken, int64 [count]; of equal ones, the first.

    Args:
        gram: G, float64 [m, m].
        output: output vectors of the neurons, float64 [m, d].
        count: how many are taken, at most m.
    """
    ridge = RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    left = gram @ output  # products of each neuron with the output, less what the neurons taken explain
    variance = gram.diagonal() + ridge  # of each neuron, likewise
    factor = gram.new_zeros(len(gram), count)
    taken: list[int] = []
    for step in range(count):
        gains = left.square().sum(1) / variance
        gains[taken] = -torch.inf
        chosen = int(gains.argmax())
        column = gram[:, chosen] - factor[:, :step] @ factor[chosen, :step]
        column[chosen] += ridge
        root = variance[chosen].sqrt()
        column = column / root
        left = left - torch.outer(column, left[chosen] / root)
        variance = (variance - column.square()).clamp(min=ridge * 1e-9)
        factor[:, step] = column
        taken.append(chosen)
    return torch.tensor(taken)
