"""The Banzhaf value: the mean of what a client adds to a coalition, over all coalitions alike.

Wang and Jia, Data Banzhaf: A Robust Data Valuation Framework for Machine Learning, arXiv:2205.15466. For n clients:

    φ_i = 2^{1−n} Σ_{S ⊆ N∖{i}} (v(S ∪ {i}) − v(S))

Of all values that weigh coalitions by their sizes, its order of the clients withstands the most noise in v. It is
estimated with maximum sample reuse: from coalitions that each client joins with probability ½,

    φ_i = mean of v(S) over the S with i − mean of v(S) over the S without i

so that each evaluation serves all clients. Coalitions are drawn in pairs, S and N ∖ S, which gives each client as many
with it as without it. Σ_i φ_i is not v(N) − v(∅) in general.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.contributions.base import Game, UtilityValuation


class Banzhaf(UtilityValuation):
    """The Banzhaf value by maximum sample reuse (Data Banzhaf)."""

    kind: Literal["banzhaf"] = "banzhaf"
    """The Banzhaf value: what a client adds to a coalition, over all coalitions alike (arXiv:2205.15466)."""
    evaluations: Annotated[int, Field(ge=2)] = 64
    """Coalitions that are drawn in a round; where there are no more than these, the value is exact."""

    def scores(self, game: Game) -> dict[str, float]:
        """The difference of two means for each client."""
        joins = self._drawn(game)
        values = [game.value([c for c, joined in zip(game.clients, row, strict=True) if joined]) for row in joins]
        return {
            client: _mean(values, joins[:, place]) - _mean(values, ~joins[:, place])
            for place, client in enumerate(game.clients)
        }

    def _drawn(self, game: Game) -> np.ndarray:
        """Which clients each coalition has, bool ``[coalitions, clients]``."""
        size = len(game.clients)
        if size < 63 and 2**size <= self.evaluations:
            return np.array(list(product((False, True), repeat=size)))
        half = game.generator.random((self.evaluations // 2, size)) < 0.5
        return np.concatenate([half, ~half])


def _mean(values: list[float], chosen: np.ndarray) -> float:
    return math.fsum(value for value, one in zip(values, chosen, strict=True) if one) / int(chosen.sum())
