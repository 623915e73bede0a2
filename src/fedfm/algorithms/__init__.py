"""Algorithms, one idea a file, each readable beside its paper. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.algorithms.base import Aggregate, Algorithm, At, ClientRound, Finished, ServerState
from fedfm.algorithms.diloco import DiLoCo
from fedfm.algorithms.ditto import Ditto
from fedfm.algorithms.ewc import Ewc
from fedfm.algorithms.fedadagrad import FedAdagrad
from fedfm.algorithms.fedavg import FedAvg
from fedfm.algorithms.fedavgm import FedAvgM
from fedfm.algorithms.feddyn import FedDyn
from fedfm.algorithms.fedexp import FedExp
from fedfm.algorithms.fednova import FedNova
from fedfm.algorithms.fedopt import FedAdam, FedYogi
from fedfm.algorithms.fedpm import FedPM
from fedfm.algorithms.fedprox import FedProx
from fedfm.algorithms.lwf import Lwf
from fedfm.algorithms.o_lora import OLora
from fedfm.algorithms.scaffold import Scaffold
from fedfm.registry import Choice

ALGORITHMS: dict[str, type[Algorithm]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedexp": FedExp,
    "fednova": FedNova,
    "diloco": DiLoCo,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedpm": FedPM,
    "ewc": Ewc,
    "lwf": Lwf,
    "o-lora": OLora,
    "ditto": Ditto,
}

AnyAlgorithm = Annotated[Algorithm, Choice(ALGORITHMS, "name", "fedfm.algorithms")]

__all__ = [
    "ALGORITHMS",
    "Aggregate",
    "Algorithm",
    "AnyAlgorithm",
    "At",
    "ClientRound",
    "DiLoCo",
    "Ditto",
    "Ewc",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedExp",
    "FedNova",
    "FedPM",
    "FedProx",
    "FedYogi",
    "Finished",
    "Lwf",
    "OLora",
    "Scaffold",
    "ServerState",
]
