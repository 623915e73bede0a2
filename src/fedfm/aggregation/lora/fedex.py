"""FedEx-LoRA: factors are averaged, and what the product of the means lacks is added to the frozen weights.

Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models,
arXiv:2410.09432, §3: A' = Σ p_c·A_c, B' = Σ p_c·B_c, W ← W + s·(Σ p_c·B_c·A_c − B'·A').
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fedfm.aggregation.lora.exact import ExactRule
from fedfm.models.low_rank import Thin


class FedEx(ExactRule):
    """Mean of factors; what it lacks is added to the frozen weights."""

    rule: Literal["fedex"] = "fedex"
    """Mean of factors; what it lacks is added to the frozen weights."""

    def renew(self, a: str, product: Thin, factor: Tensor, *, seed: int, round: int) -> Thin | None:  # noqa: A002
        """None: the mean of factors."""
        return None
