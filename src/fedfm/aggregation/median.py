"""The coordinate-wise median: at each coordinate, over the clients that hold it.

Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, arXiv:1803.01498, Option I. With
an even number of values it is the mean of the two middle ones. Clients count alike, however many examples they have;
one that was drawn twice counts twice. It withstands fewer than half of the values of a coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from fedfm.aggregation.base import Fold
from fedfm.aggregation.gathered import OrderFold
from fedfm.aggregation.robust.base import MixingRule
from fedfm.spec import Spec


class Median(MixingRule):
    """Coordinate-wise median; unweighted."""

    rule: Literal["median"] = "median"
    """Coordinate-wise median; clients count alike, however many examples they have."""

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> Fold:  # noqa: A002
        """The fold of a round."""
        return OrderFold(spec, _median, self.rows(seed, round))


def _median(values: Tensor, counts: Tensor) -> Tensor:
    """Of the first ``counts`` values of each column."""
    middle = values.gather(0, (counts // 2).clamp(max=len(values) - 1)[None])[0]
    below = values.gather(0, ((counts - 1) // 2).clamp(min=0)[None])[0]
    return (below + middle) / 2
