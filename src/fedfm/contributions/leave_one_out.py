"""Leave-one-out: by how much the round's model is worse without a client.

    φ_i = v(N) − v(N ∖ {i})

n + 1 evaluations for n clients. Clients whose updates are alike replace each other, so that each of them scores little.
The oldest of all such scores, and that which Ghorbani and Zou compare with: Data Shapley, arXiv:1904.02868, Section 2.
"""

from __future__ import annotations

from typing import Literal

from fedfm.contributions.base import Game, UtilityValuation


class LeaveOneOut(UtilityValuation):
    """Leave-one-out: by how much the round's model is worse without the client."""

    kind: Literal["leave-one-out"] = "leave-one-out"
    """By how much the round's model is worse without the client; n + 1 evaluations for n clients."""

    def scores(self, game: Game) -> dict[str, float]:
        """φ_i = v(N) − v(N ∖ {i})."""
        return {
            client: game.value(game.clients) - game.value([other for other in game.clients if other != client])
            for client in game.clients
        }
