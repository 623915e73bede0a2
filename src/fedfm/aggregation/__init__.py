"""Aggregation rules: how a round's updates become one. One rule, one file."""

from __future__ import annotations

from typing import Annotated

from fedfm.aggregation.afl import Afl
from fedfm.aggregation.base import Contribution, Fold, Memory, Rule
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
from fedfm.aggregation.robust.bulyan import Bulyan
from fedfm.aggregation.robust.centered_clipping import CenteredClipping
from fedfm.aggregation.robust.fltrust import FlTrust
from fedfm.aggregation.robust.foolsgold import FoolsGold
from fedfm.aggregation.robust.geometric_median import GeometricMedian
from fedfm.aggregation.robust.krum import Krum, MultiKrum
from fedfm.aggregation.robust.norm_clip import NormClip
from fedfm.aggregation.robust.smea import Smea
from fedfm.aggregation.trimmed_mean import TrimmedMean
from fedfm.registry import Choice

RULES: dict[str, type[Rule]] = {
    "mean": Mean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "q-fedavg": QFedAvg,
    "afl": Afl,
    "norm-clip": NormClip,
    "krum": Krum,
    "multi-krum": MultiKrum,
    "bulyan": Bulyan,
    "geometric-median": GeometricMedian,
    "centered-clipping": CenteredClipping,
    "smea": Smea,
    "foolsgold": FoolsGold,
    "fltrust": FlTrust,
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
    "Afl",
    "Aggregation",
    "Bulyan",
    "CenteredClipping",
    "Contribution",
    "FedEx",
    "FedMomentum",
    "FedRot",
    "FedSvd",
    "FfaLora",
    "FlTrust",
    "FlexLora",
    "Flora",
    "Fold",
    "FoolsGold",
    "GeometricMedian",
    "HetLora",
    "Krum",
    "LoraFair",
    "Mean",
    "Median",
    "Memory",
    "MultiKrum",
    "NormClip",
    "QFedAvg",
    "RoLora",
    "Rule",
    "Smea",
    "TrimmedMean",
]
