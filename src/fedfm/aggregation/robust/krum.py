"""Krum and multi-Krum: the update nearest to its neighbours, and the mean of the best of them.

Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, arXiv:1703.02757, §4. Of n
updates, f of them hostile, the score of x_i is the sum of ‖x_i − x_j‖² over its n − f − 2 nearest neighbours:

    Krum: x_k with k = argmin_i s(i)        multi-Krum: the mean of the m updates with the smallest scores

Both need n ≥ 2f + 3. With m = n − f, the default, one round of multi-Krum uses all that the assumption leaves.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.robust.base import Compared, ComparingRule
from fedfm.aggregation.robust.grams import squared_distances
from fedfm.aggregation.robust.mixing import Tolerated


def krum_order(distances: Tensor, f: int) -> Tensor:
    """Numbers of the updates, int64 ``[n]``, from the smallest score to the largest.

    The score is over n − f − 2 neighbours, and over one at least. With one neighbour, two updates that are each other's
    nearest have one score; the sum of all distances then decides, so that the order of clients does not.

    Args:
        distances: squared, ``[n, n]``, symmetric, 0 on the diagonal.
        f: attackers.
    """
    count = len(distances)
    others = distances.clone().fill_diagonal_(torch.inf)
    scores = others.sort(dim=1).values[:, : min(max(1, count - f - 2), count - 1)].sum(1)
    return torch.from_numpy(np.lexsort((distances.sum(1).numpy(), scores.numpy())))


class Krum(ComparingRule):
    """The update that is nearest to its neighbours."""

    rule: Literal["krum"] = "krum"
    """The one update that is nearest to its n − f − 2 neighbours; all others are left out."""
    f: Tolerated = 1
    """Attackers of a round that are tolerated; a round needs 2f + 3 updates."""

    @property
    def fewest(self) -> int:
        """2f + 3."""
        return 2 * self.f + 3

    def weights(self, compared: Compared) -> Tensor:
        """1 for the best."""
        order = krum_order(squared_distances(compared.products), self.f)
        return torch.nn.functional.one_hot(order[0], len(order)).double()


class MultiKrum(ComparingRule):
    """The mean of the updates that are nearest to their neighbours."""

    rule: Literal["multi-krum"] = "multi-krum"
    """The mean of the m updates that are nearest to their n − f − 2 neighbours."""
    f: Tolerated = 1
    """Attackers of a round that are tolerated; a round needs 2f + 3 updates."""
    keep: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """m: updates in the mean; null: n − f."""

    @property
    def fewest(self) -> int:
        """2f + 3, and f + m."""
        return max(2 * self.f + 3, self.f + (self.keep or 0))

    def weights(self, compared: Compared) -> Tensor:
        """1/m for each of the best."""
        order = krum_order(squared_distances(compared.products), self.f)
        keep = min(self.keep or max(1, len(order) - self.f), len(order))
        return torch.zeros(len(order), dtype=torch.float64).index_fill_(0, order[:keep], 1 / keep)
