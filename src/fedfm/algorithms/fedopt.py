"""FedAdam and FedYogi: an adaptive server on the pseudo-gradient Δ_t, the aggregate of the clients' w_c − w_t.

Reddi et al., Adaptive Federated Optimization, arXiv:2003.00295, Algorithm 2:

    m_t = β1·m_{t−1} + (1 − β1)·Δ_t
    v_t = β2·v_{t−1} + (1 − β2)·Δ_t²                          (FedAdam)
    v_t = v_{t−1} − (1 − β2)·Δ_t²·sign(v_{t−1} − Δ_t²)        (FedYogi)
    w_{t+1} = w_t + η·m_t / (√v_t + τ)

with m_{−1} = 0, v_{−1} = τ² and, as in the paper, no bias correction (Flower's FedAdam adds one). τ dominates when
updates are small, as LoRA's are: choose it near their root mean square.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.algorithms.base import Aggregate, Algorithm, ServerState
from fedfm.params import Params, full_like, map_params, zeros_like


class AdaptiveServer(Algorithm):
    """Algorithm 2 of the paper; a subclass says how the second moment moves."""

    server_lr: Annotated[float, Field(gt=0)] = 1e-3
    """η: the server's step size."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """β1: decay of the first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """β2: decay of the second moment."""
    tau: Annotated[float, Field(gt=0)] = 1e-3
    """τ: degree of adaptivity; the second moment starts at τ²."""

    @property
    def adaptivity(self) -> float:
        """τ: where √v is far below it, every value gets the step η·m/τ."""
        return self.tau

    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        """v_t from v_{t−1} and Δ_t²."""
        raise NotImplementedError

    def start(self, params: Params) -> ServerState:
        """m_{−1} = 0, v_{−1} = τ²."""
        return {"m": zeros_like(params), "v": full_like(params, self.tau**2)}

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        """One step of Algorithm 2."""
        m = map_params(lambda m, d: self.beta1 * m + (1 - self.beta1) * d.to(m.dtype), state["m"], aggregate.update)
        v = map_params(lambda v, d: self.second_moment(v, d.to(v.dtype) ** 2), state["v"], aggregate.update)
        params = map_params(lambda w, m, v: w + self.server_lr * m / (v.sqrt() + self.tau), params, m, v)
        return params, {"m": m, "v": v}


class FedAdam(AdaptiveServer):
    """Adam at the server."""

    name: Literal["fedadam"] = "fedadam"
    """Adam at the server."""

    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        """β2·v + (1 − β2)·Δ²."""
        return self.beta2 * v + (1 - self.beta2) * squared


class FedYogi(AdaptiveServer):
    """Yogi at the server: the second moment moves additively; a sudden large update raises it no faster than Adam's."""

    name: Literal["fedyogi"] = "fedyogi"
    """Yogi at the server."""

    def second_moment(self, v: Tensor, squared: Tensor) -> Tensor:
        """V − (1 − β2)·Δ²·sign(v − Δ²)."""
        return v - (1 - self.beta2) * squared * torch.sign(v - squared)
