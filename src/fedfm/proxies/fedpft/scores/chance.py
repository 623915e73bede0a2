"""``random``: neurons drawn by the recipe's seed; a control for other scores."""

from __future__ import annotations

import torch
from torch import Tensor

from fedfm.proxies.fedpft.scores.base import Scoring
from fedfm.proxies.ffn import neurons
from fedfm.randomness import numpy_generator


def score(scoring: Scoring) -> dict[str, Tensor]:
    """Uniform in [0, 1), keyed by seed and block."""
    return {
        block.path: torch.from_numpy(numpy_generator(scoring.seed, f"neurons of {block.path}").random(neurons(block)))
        for block in scoring.blocks
    }
