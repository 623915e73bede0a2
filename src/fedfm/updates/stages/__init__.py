"""Stages of the update path, one reversible step a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.updates.stages.base import Stage
from fedfm.updates.stages.bernoulli import Bernoulli
from fedfm.updates.stages.chunk_top_k import ChunkTopK
from fedfm.updates.stages.clip import Clip
from fedfm.updates.stages.nf4 import NormalFloat
from fedfm.updates.stages.power_sgd import PowerSgd
from fedfm.updates.stages.quantize import Quantize
from fedfm.updates.stages.random_k import RandomK
from fedfm.updates.stages.sign import Sign
from fedfm.updates.stages.top_k import TopK

STAGES: dict[str, type[Stage]] = {
    "clip": Clip,
    "top-k": TopK,
    "chunk-top-k": ChunkTopK,
    "random-k": RandomK,
    "power-sgd": PowerSgd,
    "quantize": Quantize,
    "nf4": NormalFloat,
    "sign": Sign,
    "bernoulli": Bernoulli,
}

AnyStage = Annotated[Stage, Choice(STAGES, "kind", "fedfm.stages")]

__all__ = [
    "STAGES",
    "AnyStage",
    "Bernoulli",
    "ChunkTopK",
    "Clip",
    "NormalFloat",
    "PowerSgd",
    "Quantize",
    "RandomK",
    "Sign",
    "Stage",
    "TopK",
]
