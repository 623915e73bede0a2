"""Sign flipping: attackers send the opposite of what they have learned.

Li et al., RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from Heterogeneous Datasets,
arXiv:1811.03761, §5: −scale·Δ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fedfm.clients.attackers.base import Attack
from fedfm.params import map_params


class SignFlip(Attack):
    """Attackers send the opposite of what they have learned."""

    kind: Literal["sign-flip"] = "sign-flip"
    """Attackers send the opposite of what they have learned, multiplied by `scale`."""
    scale: Annotated[float, Field(gt=0)] = 4.0
    """What the opposite is multiplied by."""

    def forge(self, own: Mapping[str, Tensor], generator: np.random.Generator) -> Mapping[str, Tensor]:
        """−scale·Δ."""
        return map_params(lambda delta: -self.scale * delta, own)
