"""What can be done to the updates of a round before a rule combines them, each a matrix M: y = M·x.

Bucketing: Karimireddy et al., Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, arXiv:2006.09365,
Algorithm 1. Nearest-neighbour mixing (NNM): Allouah et al., Fixing by Mixing: A Recipe for Optimal Byzantine ML under
Heterogeneity, arXiv:2302.01772, Algorithm 2. Adaptive robust clipping (ARC): Allouah et al., Adaptive Gradient Clipping
for Robust Federated Learning, arXiv:2405.14432, Algorithm 2.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.robust.grams import squared_distances
from fedfm.registry import Choice
from fedfm.settings import Settings

Tolerated = Annotated[int, Field(ge=0, le=100_000)]


class Mixing(Settings):
    """What replaces n updates by m linear combinations of them."""

    kind: str

    def matrix(self, products: Tensor, generator: np.random.Generator) -> Tensor:
        """M ``[m, n]`` in float64.

        Args:
            products: G of the updates, ``[n, n]``.
            generator: of this round; the only source of chance.
        """
        raise NotImplementedError

    def least(self, wanted: int) -> int:
        """The fewest updates from which it makes ``wanted``."""
        return wanted

    def most(self, allowed: int) -> int:
        """The most updates from which it makes ``allowed`` at most."""
        return allowed


class Bucketing(Mixing):
    """Means of random buckets of s updates; the last bucket has what is left."""

    kind: Literal["bucketing"] = "bucketing"
    """Means of random buckets of updates: they differ less than updates do, where the clients' data differ. One
    attacker spoils one bucket."""
    size: Annotated[int, Field(ge=1, le=100_000)] = 2
    """s: updates in a bucket."""

    def matrix(self, products: Tensor, generator: np.random.Generator) -> Tensor:
        """⌈n/s⌉ rows; each update is in one of them."""
        count = len(products)
        found = torch.zeros(math.ceil(count / self.size), count, dtype=torch.float64)
        order = generator.permutation(count)
        for bucket in range(len(found)):
            chosen = order[bucket * self.size : (bucket + 1) * self.size]
            found[bucket, torch.from_numpy(chosen)] = 1 / len(chosen)
        return found

    def least(self, wanted: int) -> int:
        """(wanted − 1)·s + 1."""
        return (wanted - 1) * self.size + 1

    def most(self, allowed: int) -> int:
        """Allowed·s."""
        return allowed * self.size


class NearestNeighbors(Mixing):
    """Each update becomes the mean of the n − f updates nearest to it, itself among them."""

    kind: Literal["nnm"] = "nnm"
    """Each update becomes the mean of the n − f updates that are nearest to it (NNM)."""
    f: Tolerated = 1
    """Attackers of a round that are tolerated."""

    def matrix(self, products: Tensor, generator: np.random.Generator) -> Tensor:
        """A row for each update."""
        count = len(products)
        kept = max(1, count - self.f)
        nearest = squared_distances(products).argsort(dim=1, stable=True)[:, :kept]
        return torch.zeros(count, count, dtype=torch.float64).scatter_(1, nearest, 1 / kept)

    def least(self, wanted: int) -> int:
        """2f + 1 at least."""
        return max(wanted, 2 * self.f + 1)


class AdaptiveClipping(Mixing):
    """The ⌊2·(f/n)·(n − f)⌋ longest updates are clipped to the norm of the next one."""

    kind: Literal["arc"] = "arc"
    """The longest updates are clipped to the norm of the longest that is not (ARC); how many follows from `f`."""
    f: Tolerated = 1
    """Attackers of a round that are tolerated."""

    def matrix(self, products: Tensor, generator: np.random.Generator) -> Tensor:
        """Diagonal."""
        count, norms = len(products), products.diagonal().clamp(min=0).sqrt()
        clipped = min(2 * self.f * max(0, count - self.f) // count, count - 1)
        limit = norms.sort().values[count - clipped - 1]
        return torch.diag(shrink(norms, limit))

    def least(self, wanted: int) -> int:
        """2f + 1 at least."""
        return max(wanted, 2 * self.f + 1)


def shrink(norms: Tensor, limit: Tensor | float) -> Tensor:
    """The factors min(1, limit/norm) that clip vectors of these norms; 1 where the norm is 0."""
    return torch.where(norms > limit, limit / norms.where(norms > 0, 1), 1.0)


MIXINGS: dict[str, type[Mixing]] = {"bucketing": Bucketing, "nnm": NearestNeighbors, "arc": AdaptiveClipping}

AnyMixing = Annotated[Mixing, Choice(MIXINGS, "kind", "fedfm.mixings")]
