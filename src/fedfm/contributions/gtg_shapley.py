"""GTG-Shapley: the Shapley value by sampled orders, with most evaluations left out.

Liu, Chen, Yu, Liu, Cui, GTG-Shapley: Efficient and Accurate Participant Contribution Evaluation in Federated Learning,
arXiv:2109.02053, Algorithm 1. In a round with the clients N, n of them:

    if |v(N) − v(∅)| ≤ ε_b:  φ = 0                                          truncation between rounds
    repeat, for i = 1 … n:                                                  guided sampling
        π ← an order of N that begins with i, the rest at random
        v_0 = v(∅);  v_j = v_{j−1} if |v(N) − v_{j−1}| ≤ ε_i, else v({π_1, …, π_j})      truncation within a round
        φ_{π_j} ← mean over all orders of v_j − v_{j−1}
    until φ has converged

Here ε_i is a share of |v(N) − v(∅)|, so that it fits every metric. φ has converged when, over the last n orders, its
mean relative distance from the latest φ is at most `tolerance`. The first gain of a client is that over the model
before the round, which differs most between clients: since each client begins in turn, it is sampled evenly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.contributions.base import Game, UtilityValuation


class GtgShapley(UtilityValuation):
    """The Shapley value by guided sampling of orders with truncation (GTG-Shapley)."""

    kind: Literal["gtg-shapley"] = "gtg-shapley"
    """The Shapley value by guided sampling of orders with truncation (arXiv:2109.02053)."""
    between: Annotated[float, Field(ge=0)] = 1e-3
    """ε_b: a round that changes the utility by no more, in its units, scores nothing."""
    within: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """ε_i: an order ends where the utility is as near to that of all clients; a share of the round's change."""
    tolerance: Annotated[float, Field(ge=0)] = 0.05
    """Orders are sampled until the scores change by no more than this share of themselves."""
    evaluations: Annotated[int, Field(ge=2)] | None = None
    """The most evaluations of a round; null: n² for n clients."""

    def scores(self, game: Game) -> dict[str, float]:
        """Algorithm 1; an order that the budget cuts short does not count, unless it is the first."""
        size = len(game.clients)
        mean, count = np.zeros(size), 0
        budget = self.evaluations or size**2
        latest: deque[np.ndarray] = deque(maxlen=size + 1)
        if abs(game.change) > self.between:
            for order in _orders(game):
                gains = self._gains(game, order, budget if count else None)
                if gains is None:
                    break
                count += 1
                mean = mean + (gains - mean) / count
                latest.append(mean)
                if count >= budget or self._converged(latest):
                    break
        return dict(zip(game.clients, mean.tolist(), strict=True))

    def _gains(self, game: Game, order: Sequence[int], budget: int | None) -> np.ndarray | None:
        """v_j − v_{j−1} of each client in one order; None where that takes more evaluations than the budget."""
        gains = np.zeros(len(order))
        near, now = self.within * abs(game.change), game.value(())
        joined: list[str] = []
        for place in order:
            joined.append(game.clients[place])
            if abs(game.value(game.clients) - now) <= near:
                break
            if budget is not None and game.evaluations >= budget and not game.knows(joined):
                return None
            before, now = now, game.value(joined)
            gains[place] = now - before
        return gains

    def _converged(self, latest: Sequence[np.ndarray]) -> bool:
        """Whether the means after the last n orders are near the latest one."""
        size = len(latest[-1])
        if len(latest) <= size:
            return False
        now = latest[-1]
        distances = [np.abs(mean - now) / (np.abs(now) + np.finfo(float).eps) for mean in latest]
        return bool(max(distance.mean() for distance in distances) <= self.tolerance)


def _orders(game: Game) -> Iterator[list[int]]:
    """Orders of the clients' places without end: each client begins in turn, and the rest follow at random."""
    size = len(game.clients)
    while True:
        for first in range(size):
            rest = [place for place in range(size) if place != first]
            yield [first, *map(int, game.generator.permutation(rest))]
