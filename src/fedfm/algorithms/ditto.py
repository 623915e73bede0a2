"""Ditto: beside FedAvg, each client trains a model of its own that is pulled towards the shared one.

Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, arXiv:2012.04221, eq. (Ditto) and
Algorithm 1. Client i keeps v_i, and minimises

    F_i(v_i) + (λ/2)·‖v_i − w‖²,        v_i ← v_i − η·(∇F_i(v_i) + λ·(v_i − w_t))    in each local step,

where w_t is what it received. What it sends is its update of w_t, as in FedAvg: v_i changes no update, and w is that of
FedAvg, bit for bit. λ = 0 is local training alone; for λ → ∞, v_i is w. In a client's first round v_i = w_t. Both
trainings have as many steps, on the same batches, so that a round costs a client twice the compute of FedAvg, and
nothing on the wire. Clients are evaluated with v_i; `adapter/` has w.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.algorithms.base import Algorithm
from fedfm.algorithms.fedprox import FedProx


class Ditto(Algorithm):
    """Federated averaging, and beside it a model of each client's own, pulled towards the shared one."""

    name: Literal["ditto"] = "ditto"
    """Federated averaging, and beside it a model of each client's own, pulled towards the shared one."""
    lam: Annotated[float, Field(ge=0)] = 0.1
    """λ: strength of the pull; 0 is local training alone. The paper tries 0.05 to 2."""

    @property
    def personal_rule(self) -> Algorithm:
        """∇F_i(v) + λ·(v − w_t), which is FedProx's gradient with µ = λ."""
        return FedProx(mu=self.lam)
