"""The Shapley value, exactly: the mean of what a client adds, over all orders in which clients can join.

Shapley, A value for n-person games, 1953. For the n clients N of a round:

    φ_i = Σ_{S ⊆ N∖{i}} |S|!·(n − |S| − 1)!/n! · (v(S ∪ {i}) − v(S))

It is the only value that is efficient (Σ_i φ_i = v(N) − v(∅)), symmetric (clients that add the same to every coalition
score alike), zero for a client that adds nothing to any coalition, and linear in v. 2ⁿ evaluations for n clients.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import ClassVar, Literal

from fedfm.contributions.base import Game, UtilityValuation


class Shapley(UtilityValuation):
    """The Shapley value, exactly."""

    kind: Literal["shapley"] = "shapley"
    """The Shapley value, exactly: 2ⁿ evaluations for n clients of a round, 10 at most."""

    most: ClassVar[int | None] = 10

    def scores(self, game: Game) -> dict[str, float]:
        """φ_i, from the value of every coalition."""
        return {client: math.fsum(_terms(game, client)) for client in game.clients}


def _terms(game: Game, client: str) -> list[float]:
    """The weighted gains of all coalitions that a client can join."""
    others = [other for other in game.clients if other != client]
    return [
        (game.value((*coalition, client)) - game.value(coalition)) / (len(game.clients) * math.comb(len(others), size))
        for size in range(len(others) + 1)
        for coalition in combinations(others, size)
    ]
