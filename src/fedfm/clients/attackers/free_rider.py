"""Free riders: clients that want the model and do not train.

Fraboni et al., Free-rider Attacks on Model Aggregation in Federated Learning, arXiv:2006.11901, §3: plain free riders
send the parameters as they came, Δ = 0; disguised ones add noise, so that they look as if they had trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fedfm.clients.attackers.base import Attack
from fedfm.clients.attackers.noise import noise_like, root_mean_square


class FreeRider(Attack):
    """Clients that do not train."""

    kind: Literal["free-rider"] = "free-rider"
    """Clients that do not train: they send the parameters as they came, with noise if `disguise` is above 0."""
    disguise: Annotated[float, Field(ge=0)] = 0.0
    """Root mean square of the noise, over that of an honest update."""

    def forge(self, own: Mapping[str, Tensor], generator: np.random.Generator) -> Mapping[str, Tensor]:
        """Zero, or noise. The simulation trains the client, and throws that away."""
        return noise_like(own, self.disguise * root_mean_square(own), generator)
