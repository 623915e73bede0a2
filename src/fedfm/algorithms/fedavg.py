"""FedAvg: w_{t+1} = w_t + Σ_c (n_c/n)·(w_c − w_t).

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv:1602.05629,
Algorithm 1.
"""

from __future__ import annotations

from typing import Literal

from fedfm.algorithms.base import Algorithm


class FedAvg(Algorithm):
    """Federated averaging."""

    name: Literal["fedavg"] = "fedavg"
    """Federated averaging."""
