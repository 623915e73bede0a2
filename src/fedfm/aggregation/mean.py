"""The weighted mean of updates: Δ = Σ w_c·Δ_c / Σ w_c.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv:1602.05629,
Algorithm 1. Weights by examples n_c, or all equal. Under `sampling: weighted` clients are drawn in proportion to n_c
already (Li et al., arXiv:1907.02189, scheme I), so each draw weighs the same and `auto` takes equal weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from fedfm.params import Params
from fedfm.settings import Settings

AT_ONCE = 2**15
"""Values that are in float64 beside the sum, at most; torch leaves so few to one thread, and wakes no other."""


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
        self._dtypes: dict[str, torch.dtype] = {}
        self._weight = 0.0

    def add(self, update: Mapping[str, Tensor], weight: float) -> None:
        """Folds in one update."""
        self._weight += weight
        for name, tensor in update.items():
            if name not in self._sum:
                self._sum[name] = torch.zeros(tensor.shape, dtype=torch.float64)
                self._dtypes[name] = tensor.dtype
            for total, values in zip(_pieces(self._sum[name]), _pieces(tensor), strict=True):
                total.add_(values.to(torch.float64, copy=True).mul_(weight))

    def result(self) -> Params:
        """The mean, in the dtype of the updates; it ends the fold, whose memory it gives back as it goes.

        Raises:
            ValueError: nothing was folded in.
        """
        if not self._weight:
            raise ValueError("the mean of no updates is undefined")
        return {name: self._sum.pop(name).div_(self._weight).to(self._dtypes[name]) for name in list(self._sum)}


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor, or its values a few at a time where it is large."""
    if tensor.numel() <= AT_ONCE:
        yield tensor
        return
    values = tensor.reshape(-1)
    yield from (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
