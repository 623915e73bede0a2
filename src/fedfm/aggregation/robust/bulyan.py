"""Bulyan: repeated Krum chooses updates, and each coordinate is the mean of the values near their median.

El Mhamdi et al., The Hidden Vulnerability of Distributed Learning in Byzantium, arXiv:1802.07927, §4. Of n ≥ 4f + 3
updates, θ = n − 2f are chosen one after the other, each by Krum among those that are left. Each coordinate is then the
mean of the β = θ − 2f values that are nearest to the median of the θ. Krum alone lets an attacker put all of its
distance in one coordinate; the second step bounds each coordinate.

The last choices have fewer than 2f + 3 updates left; their scores are over n' − f − 2 neighbours of those left, and
over one at least.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from fedfm.aggregation.base import Fold
from fedfm.aggregation.gathered import OrderFold
from fedfm.aggregation.robust.base import MixingRule
from fedfm.aggregation.robust.grams import squared_distances
from fedfm.aggregation.robust.krum import krum_order
from fedfm.aggregation.robust.mixing import Tolerated
from fedfm.capabilities import WHOLE_VIEWS
from fedfm.settings import Capabilities
from fedfm.spec import Spec


class Bulyan(MixingRule):
    """Updates chosen by repeated Krum, then the mean of the values near the median of each coordinate."""

    rule: Literal["bulyan"] = "bulyan"
    """Repeated Krum chooses n − 2f updates; each coordinate is the mean of the values near their median."""
    f: Tolerated = 1
    """Attackers of a round that are tolerated; a round needs 4f + 3 updates."""

    @property
    def fewest(self) -> int:
        """4f + 3."""
        return 4 * self.f + 3

    def capabilities(self) -> Capabilities:
        """Also that it compares whole updates."""
        said = super().capabilities()
        return Capabilities({**said.needs, WHOLE_VIEWS: "it compares whole updates"}, said.gives, said.takes)

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> Fold:  # noqa: A002
        """The fold of a round."""
        rows = self.rows(seed, round, self._choice)
        return OrderFold(spec, functools.partial(_near_the_median, self.f), rows)

    def _choice(self, products: Tensor) -> Tensor:
        """A row for each of the θ chosen updates, ``[θ, n]``."""
        distances = squared_distances(products)
        left = list(range(len(products)))
        chosen: list[int] = []
        while len(chosen) < max(1, len(products) - 2 * self.f):
            best = krum_order(distances[left][:, left], self.f)[0]
            chosen.append(left.pop(int(best)))
        return torch.eye(len(products), dtype=torch.float64)[sorted(chosen)]


def _near_the_median(f: int, values: Tensor, counts: Tensor) -> Tensor:
    """Mean of the θ − 2f sorted values nearest to the median of each column."""
    theta = len(values)
    beta = max(1, theta - 2 * f)
    median = (values[(theta - 1) // 2] + values[theta // 2]) / 2
    # The nearest β of sorted values are neighbours: the best window is where its farther end is nearest.
    ends = torch.stack([_farther(values[start], values[start + beta - 1], median) for start in range(theta - beta + 1)])
    start = ends.argmin(0)
    window = start + torch.arange(beta)[:, None]
    return values.gather(0, window).mean(0)


def _farther(low: Tensor, high: Tensor, median: Tensor) -> Tensor:
    return torch.maximum((median - low).abs(), (high - median).abs())
