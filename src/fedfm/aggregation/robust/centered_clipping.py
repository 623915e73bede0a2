"""Centred clipping: steps from the last aggregate towards the updates, none of which may pull further than τ.

Karimireddy et al., Learning from History for Byzantine Robust Optimization, arXiv:2012.10333, Algorithm 1. With v the
aggregate of the round before, 0 at first, L times:

    v ← v + (1/n)·Σ (x_i − v)·min(1, τ / ‖x_i − v‖)

The paper's clients send momentum, so that honest ones agree over rounds; here they send updates. τ = null takes the
median of the distances ‖x_i − v‖ in each step, which fewer than half of the updates cannot move out of the others'.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.robust.base import Compared, ComparingRule
from fedfm.aggregation.robust.grams import distances_to
from fedfm.aggregation.robust.mixing import shrink


class CenteredClipping(ComparingRule):
    """Clipped steps from the last aggregate towards the updates."""

    rule: Literal["centered-clipping"] = "centered-clipping"
    """Steps from the aggregate of the round before towards the updates, each clipped to the same length."""
    compare: Literal["updates"] = "updates"
    """The aggregate is kept from round to round in the coordinates of the updates."""
    tau: Annotated[float, Field(gt=0)] | None = None
    """τ: length to which a difference is clipped; null: the median of the differences' lengths."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 3
    """L: steps of a round."""

    remembers: ClassVar[bool] = True

    def weights(self, compared: Compared) -> Tensor:
        """v after the last step, in the updates and the v before."""
        count = len(compared.products) - compared.references
        weights = torch.zeros(len(compared.products), dtype=torch.float64)
        weights[count:] = 1.0
        for _ in range(self.iterations):
            distances = distances_to(weights, compared.products)[:count]
            pull = shrink(distances, distances.median() if self.tau is None else self.tau) / count
            weights = (1 - pull.sum()) * weights
            weights[:count] += pull
        return weights
