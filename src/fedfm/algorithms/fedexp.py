"""FedExP: the server takes a larger step where the clients' updates differ much from each other.

Jhunjhunwala, Wang, Joshi, FedExP: Speeding Up Federated Averaging via Extrapolation, arXiv:2301.09604, Algorithm 1.
With the updates Δ_i of the M clients of a round and their mean Δ̄:

    η_g = max(1, Σ‖Δ_i‖² / (2M·(‖Δ̄‖² + ε)))
    w_{t+1} = w_t + η_g·Δ̄

Both means, of Δ_i and of ‖Δ_i‖², are those of the recipe's rule; `weights: uniform` is the paper's. Clients that agree
give η_g = 1, which is FedAvg. The paper delivers the mean of the last two w, because w_t oscillates; here it is w_t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.algorithms.base import Aggregate, Algorithm, ServerState
from fedfm.params import Params, map_params


class FedExp(Algorithm):
    """Extrapolation: the server's step size follows from how much the updates differ."""

    name: Literal["fedexp"] = "fedexp"
    """Extrapolation: the server's step size follows from how much the updates differ."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-3
    """ε: bounds the step size where updates cancel; choose it near the squared norm of their mean, or below."""

    def measure(self, update: Mapping[str, Tensor], contribution: Contribution) -> Mapping[str, float]:
        """‖Δ_i‖²."""
        return {"squared_norm": _squared_norm(update)}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """W ← w + η_g·Δ̄."""
        spread = aggregate.figures["squared_norm"] / (2 * (_squared_norm(aggregate.update) + self.epsilon))
        server_lr = max(1.0, spread)
        return map_params(lambda w, delta: w + server_lr * delta.to(w.dtype), params, aggregate.update), state


def _squared_norm(update: Mapping[str, Tensor]) -> float:
    """‖Δ‖² over all tensors."""
    return math.fsum(torch.linalg.vector_norm(tensor.double()).item() ** 2 for tensor in update.values())
