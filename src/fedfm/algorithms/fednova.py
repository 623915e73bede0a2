"""FedNova: a client that takes more local steps does not pull the model further towards its own optimum.

Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, arXiv:2007.07481,
equations 6 and 7, for plain SGD, where each of the τ_i local steps counts 1 (a_i = [1, …, 1], ‖a_i‖₁ = τ_i):

    d_i = Δ_i / τ_i                       at the client, which sends d_i
    τ_eff = Σ p_i·τ_i
    w_{t+1} = w_t + η_g·τ_eff·Σ p_i·d_i

p_i are the weights of the recipe's rule. With equal τ_i this is FedAvg. A client that took no step sends d_i = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.algorithms.base import Aggregate, Algorithm, ClientRound, Finished, LocalResult, ServerState
from fedfm.params import Params, map_params


class FedNova(Algorithm):
    """Normalised averaging: a client's update counts by its direction, however many steps it took."""

    name: Literal["fednova"] = "fednova"
    """Normalised averaging: a client's update counts by its direction, however many steps it took."""
    server_lr: Annotated[float, Field(gt=0)] = 1.0
    """η_g: the server's step size."""

    needs: ClassVar[Mapping[str, str]] = {
        "sgd": "an update divided by its steps is a mean gradient only for plain SGD steps",
        "server step each round": "a normalised update is no change of the parameters before the server's step",
    }

    def client_finish(self, update: Params, at: ClientRound, result: LocalResult) -> Finished:
        """d_i = Δ_i / τ_i."""
        return Finished(map_params(lambda delta: delta / max(1, result.steps), update))

    def measure(self, update: Mapping[str, Tensor], contribution: Contribution) -> Mapping[str, float]:
        """τ_i."""
        return {"steps": float(contribution.steps)}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """W ← w + η_g·τ_eff·Σ p_i·d_i."""
        step = self.server_lr * aggregate.figures["steps"]
        return map_params(lambda w, d: w + step * d.to(w.dtype), params, aggregate.update), state
