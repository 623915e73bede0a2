"""FedDyn: each client's loss is corrected so that all clients agree where the sum of their losses is least.

Acar et al., Federated Learning Based on Dynamic Regularization, arXiv:2111.04263, Algorithm 1. Client i minimises

    F_i(w) − ⟨h_i, w⟩ + (α/2)·‖w − w_t‖²

from w = w_t, so its gradient is ∇F_i(w) − h_i + α·(w − w_t), and afterwards

    h_i ← h_i − α·Δ_i                             the gradient of F_i at w_i, where the client's problem is solved
    h ← h − α·(|S|/N)·Δ_t
    w_{t+1} = w_t + Δ_t − h/α                     the mean of the clients' w_i, minus h/α

h and every h_i start at 0. Δ_i is w_i − w_t and Δ_t their aggregate. A client keeps h_i between rounds and the server
keeps h; messages are as large as with FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedfm.algorithms.base import Aggregate, Algorithm, At, ClientRound, Finished, Groups, LocalResult, ServerState
from fedfm.params import Params, map_params, zeros_like


class FedDyn(Algorithm):
    """Dynamic regularisation: a linear and a proximal term at each client."""

    name: Literal["feddyn"] = "feddyn"
    """Dynamic regularisation: a linear and a proximal term at each client."""
    alpha: Annotated[float, Field(gt=0)] = 0.1
    """α: strength of the regularisation; the paper tries 0.001 to 0.1."""

    needs: ClassVar[Mapping[str, str]] = {
        "sgd": "h_i is the gradient at w_i only where steps follow the regularised gradient, unscaled and unclipped",
        "barrier": "the gradient memories assume one server state for all clients of a round",
    }

    def start(self, params: Params) -> ServerState:
        """h = 0."""
        return {"h": zeros_like(params)}

    def client_start(self, params: Params) -> Groups:
        """h_i = 0."""
        return {"h": zeros_like(params)}

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        """∇F_i(w) − h_i + α·(w − w_t)."""
        return gradient - at.own["h"] + self.alpha * (parameter - at.received)

    def client_finish(self, update: Params, at: ClientRound, result: LocalResult) -> Finished:
        """h_i ← h_i − α·Δ_i."""
        return Finished(update, own={"h": map_params(lambda h, delta: h - self.alpha * delta, at.own["h"], update)})

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """h ← h − α·(|S|/N)·Δ; w ← w + Δ − h/α."""
        update = map_params(lambda w, delta: delta.to(w.dtype), params, aggregate.update)
        h = map_params(lambda h, delta: h - self.alpha * aggregate.share * delta, state["h"], update)
        params = map_params(lambda w, delta, h: w + delta - h / self.alpha, params, update, h)
        return params, {"h": h}
