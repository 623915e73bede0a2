"""Aggregation rules: how a round's updates become one. One rule, one file."""

from __future__ import annotations

from typing import Annotated

from fedfm.aggregation.base import Contribution, Fold, Rule
from fedfm.aggregation.lora import (
    FedEx,
    FedMomentum,
    FedRot,
    FedSvd,
    FfaLora,
    FlexLora,
    Flora,
    HetLora,
    LoraFair,
    RoLora,
)
from fedfm.aggregation.mean import Mean
from fedfm.aggregation.median import Median
from fedfm.aggregation.qfedavg import QFedAvg
from fedfm.aggregation.trimmed_mean import TrimmedMean
from fedfm.registry import Choice

RULES: dict[str, type[Rule]] = {
    "mean": Mean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "q-fedavg": QFedAvg,
    "hetlora": HetLora,
    "ffa": FfaLora,
    "rolora": RoLora,
    "flexlora": FlexLora,
    "fedsvd": FedSvd,
    "lora-fair": LoraFair,
    "fedrot": FedRot,
    "flora": Flora,
    "fedex": FedEx,
    "fedmomentum": FedMomentum,
}

Aggregation = Annotated[Rule, Choice(RULES, "rule", "fedfm.rules")]

__all__ = [
    "RULES",
    "Aggregation",
    "Contribution",
    "FedEx",
    "FedMomentum",
    "FedRot",
    "FedSvd",
    "FfaLora",
    "FlexLora",
    "Flora",
    "Fold",
    "HetLora",
    "LoraFair",
    "Mean",
    "Median",
    "QFedAvg",
    "RoLora",
    "Rule",
    "TrimmedMean",
]
