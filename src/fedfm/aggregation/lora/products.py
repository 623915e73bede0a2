"""Weighted sums of low-rank products Σ w·B·A, as thin factors."""

from __future__ import annotations

import torch
from torch import Tensor

from fedfm.models.low_rank import Factors, compressed


class ProductSum:
    """A running sum of products in float64; its memory is bounded by the size of the matrix.

    Attributes:
        weight: sum of the weights.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self._up: list[Tensor] = []
        self._down: list[Tensor] = []

    def add(self, b: Tensor, a: Tensor, weight: float) -> None:
        """Adds ``weight``·B·A.

        Args:
            b: ``[out, k]``.
            a: ``[k, in]``.
            weight: of the product.
        """
        self.weight += weight
        self._up.append(b.double())
        self._down.append(a.double() * weight)
        if sum(len(down) for down in self._down) > min(b.shape[0], a.shape[1]):
            up, down = compressed(torch.cat(self._up, 1), torch.cat(self._down))
            self._up, self._down = [up], [down]

    def mean(self) -> Factors:
        """Factors of the weighted mean, float64."""
        return torch.cat(self._up, 1), torch.cat(self._down) / self.weight
