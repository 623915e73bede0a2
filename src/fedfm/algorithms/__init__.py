"""Algorithms, one idea a file, each readable beside its paper. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.algorithms.base import Algorithm, ServerState
from fedfm.algorithms.fedavg import FedAvg
from fedfm.algorithms.fedavgm import FedAvgM
from fedfm.algorithms.fedopt import FedAdam, FedYogi
from fedfm.algorithms.fedprox import FedProx
from fedfm.registry import Choice

ALGORITHMS: dict[str, type[Algorithm]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}

AnyAlgorithm = Annotated[Algorithm, Choice(ALGORITHMS, "name", "fedfm.algorithms")]

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AnyAlgorithm",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "FedYogi",
    "ServerState",
]
