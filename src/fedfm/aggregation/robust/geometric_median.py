"""The geometric median: the point with the smallest sum of distances to the updates.

Pillutla et al., Robust Aggregation for Federated Learning (RFA), arXiv:1912.13445, Algorithm 2 (smoothed Weiszfeld):

    β_i = 1 / max(ν, ‖z − x_i‖),   z ← Σ β_i·x_i / Σ β_i,   z = 0 at first

An update far away has a small weight, and no weight is zero. Clients count alike, not by examples as in the paper: a
hostile client would claim many. It withstands fewer than half of the updates.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.robust.base import Compared, ComparingRule
from fedfm.aggregation.robust.grams import distances_to


class GeometricMedian(ComparingRule):
    """The point with the smallest sum of distances to the updates."""

    rule: Literal["geometric-median"] = "geometric-median"
    """The point with the smallest sum of distances to the updates (RFA); clients count alike."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 8
    """Steps of the smoothed Weiszfeld algorithm."""
    nu: Annotated[float, Field(gt=0)] = 1e-6
    """ν: a distance below it counts as ν, in units of the updates' norm."""

    def weights(self, compared: Compared) -> Tensor:
        """β_i / Σ β_i after the last step."""
        weights = torch.zeros(len(compared.products), dtype=torch.float64)
        for _ in range(self.iterations):
            beta = 1 / distances_to(weights, compared.products).clamp(min=self.nu)
            weights = beta / beta.sum()
        return weights
