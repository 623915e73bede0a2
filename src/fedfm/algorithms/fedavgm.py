"""FedAvgM: the server has momentum, v_{t+1} = β·v_t + Δ_t and w_{t+1} = w_t + η·v_{t+1}.

Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
arXiv:1909.06335, §4.3. β = 0, η = 1 is FedAvg; with a large β lower η by about (1 − β).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.algorithms.base import Aggregate, Algorithm, ServerState
from fedfm.params import Params, map_params, zeros_like


class FedAvgM(Algorithm):
    """Federated averaging with server momentum."""

    name: Literal["fedavgm"] = "fedavgm"
    """Federated averaging with server momentum."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """η: the server's step size."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """β: how much of the last velocity is kept."""

    def start(self, params: Params) -> ServerState:
        """v_0 = 0."""
        return {"velocity": zeros_like(params)}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """V ← β·v + Δ; w ← w + η·v."""
        velocity = map_params(
            lambda v, delta: self.momentum * v + delta.to(v.dtype), state["velocity"], aggregate.update
        )
        params = map_params(lambda w, v: w + self.server_lr * v, params, velocity)
        return params, {"velocity": velocity}
