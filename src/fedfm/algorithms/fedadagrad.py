"""FedAdagrad: an adaptive server whose step sizes only shrink.

Reddi et al., Adaptive Federated Optimization, arXiv:2003.00295, Algorithm 2 with β1 = 0, as in its experiments:

    v_t = v_{t−1} + Δ_t²
    w_{t+1} = w_t + η·Δ_t / (√v_t + τ)

with v_{−1} = τ². Δ_t is the aggregate of the clients' w_c − w_t.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.algorithms.base import Aggregate, Algorithm, ServerState
from fedfm.params import Params, full_like, map_params


class FedAdagrad(Algorithm):
    """Adagrad at the server."""

    name: Literal["fedadagrad"] = "fedadagrad"
    """Adagrad at the server."""
    server_lr: Annotated[float, Field(gt=0)] = 1e-2
    """η: the server's step size."""
    tau: Annotated[float, Field(gt=0)] = 1e-3
    """τ: degree of adaptivity; the second moment starts at τ²."""

    def start(self, params: Params) -> ServerState:
        """v_{−1} = τ²."""
        return {"v": full_like(params, self.tau**2)}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """v ← v + Δ²; w ← w + η·Δ / (√v + τ)."""
        delta = map_params(lambda w, d: d.to(w.dtype), params, aggregate.update)
        v = map_params(lambda v, d: v + d**2, state["v"], delta)
        params = map_params(lambda w, d, v: w + self.server_lr * d / (v.sqrt() + self.tau), params, delta, v)
        return params, {"v": v}
