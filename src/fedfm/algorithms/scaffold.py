"""SCAFFOLD: control variates remove the drift between clients with unlike data.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, arXiv:1910.06378, Algorithm 1
with option II for the control variate of a client:

    y ← y − η·(∇F_i(y) − c_i + c)                 in each of K local steps, from y = w_t
    c_i⁺ = c_i − c + (w_t − y) / (K·η)            option II
    w_{t+1} = w_t + η_g·Δ_t
    c ← c + (|S|/N)·mean_S(c_i⁺ − c_i)

c and every c_i start at 0. Δ_t is the aggregate of the clients' y − w_t; the control variates are combined by the plain
mean, as in the paper, whose objective is the plain mean of the clients' losses. A message carries the tunable and c, an
answer the update and c_i⁺ − c_i: both are twice as large as with FedAvg. A client keeps c_i between rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedfm.algorithms.base import Aggregate, Algorithm, At, ClientRound, Finished, Groups, LocalResult, ServerState
from fedfm.params import Params, map_params, subtract, zeros_like


class Scaffold(Algorithm):
    """Federated averaging with control variates against client drift."""

    name: Literal["scaffold"] = "scaffold"
    """Federated averaging with control variates against client drift."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """η_g: the server's step size."""

    needs: ClassVar[Mapping[str, str]] = {
        "sgd": "option II divides what a client moved by K·η, which is its mean gradient only for plain SGD steps",
        "barrier": "the control variates of a round are those of one server state",
    }
    sent: ClassVar[tuple[str, ...]] = ("control",)
    returned: ClassVar[tuple[str, ...]] = ("control",)

    def start(self, params: Params) -> ServerState:
        """c = 0."""
        return {"control": zeros_like(params)}

    def sends(self, state: ServerState) -> Groups:
        """The server's control variate c."""
        return {"control": state["control"]}

    def client_start(self, params: Params) -> Groups:
        """c_i = 0."""
        return {"control": zeros_like(params)}

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        """∇F_i(y) − c_i + c."""
        return gradient - at.own["control"] + at.sent["control"]

    def client_finish(self, update: Params, at: ClientRound, result: LocalResult) -> Finished:
        """c_i⁺ = c_i − c − Δ_i / (K·η); a client that took no step keeps its c_i."""
        own, sent = at.own["control"], at.sent["control"]
        if not result.steps:
            return Finished(update, {"control": zeros_like(own)}, at.own)
        moved = result.steps * at.lr
        new = map_params(lambda c_i, c, delta: c_i - c - delta / moved, own, sent, update)
        return Finished(update, {"control": subtract(new, own)}, {"control": new})

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """w ← w + η_g·Δ; c ← c + (|S|/N)·mean Δc."""
        change = aggregate.extras["control"]
        params = map_params(lambda w, delta: w + self.server_lr * delta.to(w.dtype), params, aggregate.update)
        control = map_params(lambda c, d: c + aggregate.share * d.to(c.dtype), state["control"], change)
        return params, {"control": control}
