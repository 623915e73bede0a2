"""Min-max: attackers go as far as some honest client is from another one.

Shejwalkar and Houmansadr, Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for Federated
Learning, NDSS 2021, §4.2.2, with the inverse standard deviation as the direction. With µ and σ of the honest x_i:

    µ − γ·σ with the largest γ for which max_i ‖µ − γ·σ − x_i‖ ≤ max_{i,j} ‖x_i − x_j‖

The bound is a quadratic inequality in γ for each i, so γ is the smallest of their larger roots; nothing is searched.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fedfm.aggregation.robust.grams import squared_distances
from fedfm.clients.attackers.base import Attack
from fedfm.clients.attackers.honest import HonestUpdates
from fedfm.params import Params, map_params


class MinMax(Attack):
    """Attackers go as far as some honest client is from another one."""

    kind: Literal["min-max"] = "min-max"
    """Attackers shift the honest mean as far as two honest updates are from each other."""

    colludes: ClassVar[bool] = True

    def collude(self, honest: HonestUpdates, attackers: int) -> Params:
        """µ − γ·σ."""
        mean, spread = honest.mean(), honest.deviation()
        products, count = honest.products_with(mean, spread), len(honest)
        distances = squared_distances(products)
        limit = distances[:count, :count].max()
        size = products[-1, -1]
        if not size:
            return mean
        # ‖(µ − x_i) − γ·σ‖² = a_i − 2·γ·b_i + γ²·‖σ‖² ≤ limit
        a, b = distances[count, :count], products[count, -1] - products[:count, -1]
        gamma = ((b + (b.square() + size * (limit - a)).clamp(min=0).sqrt()) / size).min()
        return map_params(lambda centre, delta: centre - float(gamma) * delta, mean, spread)
