"""Gradient cosine: how far a client's update points where the round's aggregate points.

    φ_i = ⟨Δ_i, Δ⟩ / (‖Δ_i‖·‖Δ‖),    0 where an update is zero

Xu, Lyu, Ma, Miao, Foo, Low, Gradient Driven Rewards to Guarantee Fairness in Collaborative Machine Learning, NeurIPS
2021, which scores clients by it (cosine gradient Shapley value). Δ is the aggregate of the recipe's rule. Nothing is
evaluated and no validation set is needed; but agreement with the others is not quality, since a majority with wrong
labels agrees too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from fedfm.contributions.base import Game, Valuation


class GradientCosine(Valuation):
    """The cosine between a client's update and the aggregate; no validation set is needed."""

    kind: Literal["cosine"] = "cosine"
    """The cosine between a client's update and the aggregate, from −1 to 1; no validation set is needed."""

    def scores(self, game: Game) -> dict[str, float]:
        """cos(Δ_i, Δ)."""
        aggregate = game.aggregate()
        norm = math.sqrt(_dot(aggregate, aggregate))
        found = {}
        for client in game.clients:
            update = game.update(client)
            length = norm * math.sqrt(_dot(update, update))
            found[client] = _dot(update, aggregate) / length if length else 0.0
        return found


def _dot(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """⟨a, b⟩ over all tensors."""
    return math.fsum((left[name].double() * right[name].double()).sum().item() for name in left)
