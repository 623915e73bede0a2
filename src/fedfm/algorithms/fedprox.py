"""FedProx: client c minimises F_c(w) + (µ/2)·‖w − w_t‖², so its gradient is ∇F_c(w) + µ·(w − w_t).

Li et al., Federated Optimization in Heterogeneous Networks, arXiv:1812.06127, eq. (2) and Algorithm 2. Only tunable
parameters are pulled back; µ = 0 is FedAvg.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedfm.algorithms.base import Algorithm, At


class FedProx(Algorithm):
    """FedAvg with a proximal pull towards the received tunable."""

    name: Literal["fedprox"] = "fedprox"
    """FedAvg with a proximal pull towards what the server sent."""
    mu: Annotated[float, Field(ge=0)] = 0.01
    """µ: strength of the pull; the paper tries 0.001 to 1."""

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        """∇F_c(w) + µ·(w − w_t)."""
        return gradient + self.mu * (parameter - at.received)
