"""SMEA: the mean of the n − f updates that vary least in any direction.

Allouah et al., On the Privacy-Robustness-Utility Trilemma in Distributed Learning, arXiv:2302.04787, §4 (smallest
maximum eigenvalue averaging): among all subsets S of n − f updates, the mean of the one whose covariance

    (1/|S|)·Σ_{i ∈ S} (x_i − x̄_S)(x_i − x̄_S)ᵀ

has the smallest largest eigenvalue. It is that of the centred Gram matrix of S over |S|. All subsets are tried, so it
suits small cohorts.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.robust.base import Compared, ComparingRule

VALUES = 20_000_000
"""In the Gram matrices of all subsets together, at most."""
AT_A_TIME = 1_000_000
"""Of these values, in memory at once, at most."""


class Smea(ComparingRule):
    """The mean of the n − f updates that vary least."""

    rule: Literal["smea"] = "smea"
    """The mean of those n − f updates whose largest variance in any direction is smallest; for small cohorts."""
    f: Annotated[int, Field(ge=0, le=9)] = 1
    """Attackers of a round that are tolerated; a round needs 2f + 1 updates."""

    @property
    def fewest(self) -> int:
        """2f + 1."""
        return 2 * self.f + 1

    @property
    def highest(self) -> int | None:
        """The largest cohort whose subsets have at most `VALUES`."""
        count = self.fewest
        while math.comb(count + 1, self.f) * (count + 1 - self.f) ** 2 <= VALUES:
            count += 1
        return count

    def weights(self, compared: Compared) -> Tensor:
        """1/(n − f) in the best subset."""
        products = compared.products
        count = len(products)
        kept = max(1, count - self.f)
        best, smallest = torch.arange(kept), torch.inf
        subsets = itertools.combinations(range(count), kept)
        while block := list(itertools.islice(subsets, max(1, AT_A_TIME // kept**2))):
            chosen = torch.tensor(block)
            inner = products[chosen[:, :, None], chosen[:, None, :]]
            inner = inner - inner.mean(1, keepdim=True) - inner.mean(2, keepdim=True) + inner.mean((1, 2), keepdim=True)
            largest = torch.linalg.eigvalsh(inner)[:, -1]
            place = int(largest.argmin())
            if largest[place] < smallest:
                best, smallest = chosen[place], float(largest[place])
        return torch.zeros(count, dtype=torch.float64).index_fill_(0, best, 1 / kept)
