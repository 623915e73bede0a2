"""The weighted mean of updates: Δ = Σ w_c·Δ_c / Σ w_c.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv:1602.05629,
Algorithm 1. Weights by examples n_c, or all equal. Under `sampling: weighted` clients are drawn in proportion to n_c
already (Li et al., arXiv:1907.02189, scheme I), so each draw weighs the same and `auto` takes equal weights.
"""

from __future__ import annotations

from typing import Literal

import torch

from fedfm.params import Params, map_params
from fedfm.settings import Settings


class Mean(Settings):
    """Weighted mean, folded update by update: memory does not grow with the cohort."""

    rule: Literal["mean"] = "mean"
    """How updates are combined."""
    weights: Literal["auto", "examples", "uniform"] = "auto"
    """`examples` counts a client by its examples, `uniform` counts clients alike; `auto` fits the sampling."""

    def weight(self, examples: int, *, copies: int, sampling: str) -> float:
        """Weight of one update.

        Args:
            examples: the client's training examples, n_c.
            copies: how often the client was drawn into this cohort (above 1 only under weighted sampling).
            sampling: the recipe's ``federation.sampling``.
        """
        by_examples = self.weights == "examples" or (self.weights == "auto" and sampling != "weighted")
        return float(copies * (examples if by_examples else 1))

    def start(self) -> MeanFold:
        """An empty fold."""
        return MeanFold()


class MeanFold:
    """A running weighted mean in float64; feed it in a fixed order and the result is fixed to the bit."""

    def __init__(self) -> None:
        self._sum: Params = {}
        self._weight = 0.0

    def add(self, update: Params, weight: float) -> None:
        """Folds in one update."""
        self._weight += weight
        for name, tensor in update.items():
            term = tensor.to(torch.float64) * weight
            self._sum[name] = self._sum[name].add_(term) if name in self._sum else term

    def result(self) -> Params:
        """The mean, in float64, in the memory of the sum: it ends the fold.

        Raises:
            ValueError: nothing was folded in.
        """
        if not self._weight:
            raise ValueError("the mean of no updates is undefined")
        mean, self._sum = self._sum, {}
        return map_params(lambda tensor: tensor.div_(self._weight), mean)
