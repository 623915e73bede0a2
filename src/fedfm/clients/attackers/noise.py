"""Gaussian noise in place of an update.

Blanchard et al., arXiv:1703.02757, §5: independent normal values; here as long as the attacker's own update, times
``scale``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.clients.attackers.base import Attack
from fedfm.params import Params, count


class GaussianNoise(Attack):
    """Attackers send noise."""

    kind: Literal["noise"] = "noise"
    """Attackers send normal noise in place of an update."""
    scale: Annotated[float, Field(gt=0)] = 4.0
    """Root mean square of the noise, over that of the update that the attacker has learned."""

    def forge(self, own: Mapping[str, Tensor], generator: np.random.Generator) -> Mapping[str, Tensor]:
        """N(0, σ²) with σ = scale·‖Δ‖/√d."""
        return noise_like(own, self.scale * root_mean_square(own), generator)


def root_mean_square(update: Mapping[str, Tensor]) -> float:
    """‖Δ‖/√d over all tensors; 0 of an empty update."""
    return math.sqrt(
        sum(float(tensor.double().square().sum()) for tensor in update.values()) / max(1, count(dict(update)))
    )


def noise_like(update: Mapping[str, Tensor], deviation: float, generator: np.random.Generator) -> Params:
    """Independent normal values with names, shapes and dtypes of an update."""
    return {
        name: torch.from_numpy(deviation * generator.standard_normal(tuple(update[name].shape))).to(update[name].dtype)
        for name in sorted(update)
    }
