"""Scores of weights alone.

``concat-l2`` is the paper's, ‖[w¹ⱼ, w²ⱼ]‖₂ over all weight vectors at neuron j (FedPFT, arXiv:2404.11536). ``product``
does not change when one vector is multiplied by a factor and another is divided by it. Biases do not count.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fedfm.models.families import Block
from fedfm.proxies.fedpft.scores.base import Score
from fedfm.proxies.ffn import vectors
from fedfm.proxies.precision import wide


def concat_l2(block: Block) -> Tensor:
    """‖[w¹ⱼ, w²ⱼ]‖₂, float64 [m]; a gated FFN has three vectors at a neuron."""
    return torch.stack(_norms(block)).square().sum(0).sqrt()


def product(block: Block) -> Tensor:
    """‖w¹ⱼ‖·‖w²ⱼ‖, float64 [m]; a gated FFN has three factors."""
    return torch.stack(_norms(block)).prod(0)


def of_each(score: Callable[[Block], Tensor]) -> Score:
    """The score of all blocks, from that of one."""
    return lambda scoring: {block.path: score(block) for block in scoring.blocks}


def _norms(block: Block) -> list[Tensor]:
    """‖·‖₂ of each weight vector at each neuron, [m] a vector."""
    return [torch.linalg.vector_norm(wide(vector), dim=1).cpu() for vector in vectors(block)]
