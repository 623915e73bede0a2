"""What layers cost a client, and what a client may spend.

The cost of a choice m ∈ {0,1}^L has a part for each chosen layer, and a part for each layer from the lowest chosen one
up to the last, through which the backward pass goes:

    cost(m) = Σ_l m_l·each_l + Σ_{l ≥ min{j: m_j = 1}} depth_l
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedfm.client_patterns import first_match
from fedfm.randomness import numpy_generator
from fedfm.views.selection.base import TunableLayers

Unit = Literal["layers", "flops", "memory"]

_SLACK = 1e-9
"""Rounding that does not count as above the budget."""

_MIB = 2**20


@dataclass(frozen=True)
class LayerCosts:
    """The cost of choosing layers.

    Attributes:
        each: of a chosen layer, ``[L]``, positive.
        depth: of a layer that the backward pass goes through, ``[L]``.
    """

    each: np.ndarray
    depth: np.ndarray

    @classmethod
    def of(cls, layers: TunableLayers, unit: Unit) -> LayerCosts:
        """The cost in some unit.

        Args:
            layers: of the tunable.
            unit: ``layers`` counts them. ``flops``: the backward pass, where 1 is the forward pass of a mean layer; the
                products of a layer take as much for its activations' gradients as forward, and for its weights'
                gradients their trained share. ``memory``: MiB of gradients, optimiser state, and the inputs of linear
                layers that the backward pass needs, in float32.
        """
        trained, total = np.array(layers.trained, float), np.array(layers.total, float)
        if unit == "layers":
            return cls(np.ones(len(layers)), np.zeros(len(layers)))
        if unit == "flops":
            return cls(trained / total.mean(), total / total.mean())
        return cls(4 * (1 + layers.moments) * trained / _MIB, 4.0 * layers.tokens * np.array(layers.kept, float) / _MIB)

    @cached_property
    def below(self) -> np.ndarray:
        """``[L]``: what the backward pass costs when layer l is the lowest chosen one."""
        found: np.ndarray = np.cumsum(self.depth[::-1])[::-1]
        return found

    @cached_property
    def alike(self) -> float | None:
        """The cost of choosing any layer, where that is the same for all."""
        return float(self.each[0]) if np.allclose(self.each, self.each[0], rtol=1e-9) else None

    def of_choice(self, chosen: np.ndarray) -> float:
        """The cost of a bool ``[L]``; 0 of none."""
        return float(self.each[chosen].sum() + self.below[int(chosen.argmax())]) if chosen.any() else 0.0

    def fits(self, chosen: np.ndarray, budget: float) -> bool:
        """Whether a choice is within a budget."""
        return self.of_choice(chosen) <= budget * (1 + _SLACK) + _SLACK

    def least(self) -> float:
        """The cost of the cheapest layer."""
        return float((self.each + self.below).min())

    def filled(self, order: Sequence[int], budget: float, chosen: np.ndarray | None = None) -> np.ndarray:
        """Adds layers to a choice in some order, each that still fits into the budget."""
        found = np.zeros(len(self.each), bool) if chosen is None else chosen.copy()
        for layer in order:
            added = found.copy()
            added[layer] = True
            if self.fits(added, budget):
                found = added
        return found

    def best(self, gains: np.ndarray, budget: float) -> np.ndarray:
        """The choice with the largest sum of gains within a budget; of equal ones, the first in order.

        Args:
            gains: of each layer, ``[L]``; layers without a positive gain are not chosen.
            budget: of the client.

        Returns:
            Bool ``[L]``.
        """
        wanted = [int(layer) for layer in np.argsort(-gains, kind="stable") if gains[layer] > 0]
        free = not self.depth.any()
        value, layers = 0.0, tuple[int, ...]()
        for lowest in range(1 if free else len(gains)):
            left = budget * (1 + _SLACK) + _SLACK - (0.0 if free else self.below[lowest])
            found = self._richest([layer for layer in wanted if layer >= lowest], gains, left)
            if found[0] > value:
                value, layers = found
        chosen = np.zeros(len(gains), bool)
        chosen[list(layers)] = True
        return chosen

    def _richest(self, items: Sequence[int], gains: np.ndarray, budget: float) -> tuple[float, tuple[int, ...]]:
        """The value of the most valuable layers whose own costs are within a budget, and these layers.

        Args:
            items: layers of positive gains, the largest first.
            gains: of each layer.
            budget: may be negative.
        """
        if self.alike is None:
            return _knapsack(items, gains, self.each, budget)
        count = len(items) if math.isinf(budget) else max(int(budget / self.alike), 0)
        return float(sum(gains[layer] for layer in items[:count])), tuple(items[:count])


def _knapsack(
    items: Sequence[int], gains: np.ndarray, costs: np.ndarray, budget: float
) -> tuple[float, tuple[int, ...]]:
    """The most valuable items within a budget: grows the list of choices that no cheaper one equals in value."""
    frontier: list[tuple[float, float, tuple[int, ...]]] = [(0.0, 0.0, ())]
    for item in items:
        grown = [
            (cost + costs[item], value + gains[item], (*chosen, item))
            for cost, value, chosen in frontier
            if cost + costs[item] <= budget
        ]
        best, kept = -math.inf, []
        for entry in sorted([*frontier, *grown], key=lambda entry: (entry[0], -entry[1])):
            if entry[1] > best:
                best = entry[1]
                kept.append(entry)
        frontier = kept
    return frontier[-1][1], frontier[-1][2]


def budget_of(budget: float | Sequence[float] | Mapping[str, float], client: str, seed: int) -> float:
    """What a client may spend.

    Args:
        budget: one for all; dealt to clients at random, each alike; or pattern of client ids → budget, where the first
            match counts and a client that matches none may choose all layers.
        client: client id.
        seed: the run's seed.
    """
    if isinstance(budget, Mapping):
        return first_match(budget, client, math.inf)
    if isinstance(budget, Sequence):
        return float(numpy_generator(seed, "budget", client=client).choice(list(budget)))
    return float(budget)
