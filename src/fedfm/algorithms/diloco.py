"""DiLoCo: clients take many steps of AdamW, and the server one step of SGD with Nesterov momentum along their mean.

Douillard et al., DiLoCo: Distributed Low-Communication Training of Language Models, arXiv:2311.08105, Algorithm 1. The
outer gradient is −Δ_t, the mean of w_t − w_c. With the server's rate η and momentum μ, and v_0 = 0:

    v_{t+1} = μ·v_t + Δ_t
    w_{t+1} = w_t + η·(Δ_t + μ·v_{t+1})

as `torch.optim.SGD(nesterov=True)` steps along −Δ_t. μ = 0, η = 1 is FedAvg. The inner optimiser is the recipe's
``local``: `optimizer: adamw`, with `keep_optimizer` where its moments last from round to round, as in the paper.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.algorithms.base import Aggregate, Algorithm, ServerState
from fedfm.params import Params, map_params, zeros_like


class DiLoCo(Algorithm):
    """Nesterov momentum at the server, for clients that take many steps a round."""

    name: Literal["diloco"] = "diloco"
    """Nesterov momentum at the server, for clients that take many steps a round."""
    server_lr: Annotated[float, Field(gt=0)] = 0.7
    """η: the server's step size."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """μ: how much of the last velocity is kept."""

    def start(self, params: Params) -> ServerState:
        """v_0 = 0."""
        return {"velocity": zeros_like(params)}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """V ← μ·v + Δ; w ← w + η·(Δ + μ·v)."""
        delta = map_params(lambda w, d: d.to(w.dtype), params, aggregate.update)
        velocity = map_params(lambda v, d: self.momentum * v + d, state["velocity"], delta)
        params = map_params(lambda w, d, v: w + self.server_lr * (d + self.momentum * v), params, delta, velocity)
        return params, {"velocity": velocity}
