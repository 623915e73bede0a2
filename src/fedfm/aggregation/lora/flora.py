"""FLoRA: the clients' factors are stacked, which adds up their products exactly; the model takes all of it.

Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations,
arXiv:2409.05976, §3: B = [B_1, …, B_K], A = [p_1·A_1; …; p_K·A_K], W ← W + s·B·A. The adapter starts again: B = 0, and
A is drawn as peft draws it (uniform on ±1/√in), keyed by the round.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fedfm.aggregation.lora.exact import ExactRule
from fedfm.models.low_rank import Thin
from fedfm.randomness import torch_seed


class Flora(ExactRule):
    """Stacked factors are added to the frozen weights, and the adapter starts again."""

    rule: Literal["flora"] = "flora"
    """Stacked factors are added to the frozen weights, and the adapter starts again."""

    def residual_rank(self, rank: int, updates: int) -> int:
        """Every product goes into the frozen weights."""
        return rank * updates

    def renew(self, a: str, product: Thin, factor: Tensor, *, seed: int, round: int) -> Thin | None:  # noqa: A002
        """A drawn, B zero."""
        with torch_seed(seed, f"restart of {a}", round=round):
            drawn = torch.rand(factor.shape, dtype=torch.float64) * 2 - 1
        return Thin(factor.new_zeros(len(product.left), len(factor)), drawn / math.sqrt(factor.shape[1]))
