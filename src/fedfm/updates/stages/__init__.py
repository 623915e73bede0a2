"""Stages of the update path, one reversible step a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.updates.stages.base import Stage
from fedfm.updates.stages.clip import Clip
from fedfm.updates.stages.quantize import Quantize
from fedfm.updates.stages.top_k import TopK

STAGES: dict[str, type[Stage]] = {
    "clip": Clip,
    "top-k": TopK,
    "quantize": Quantize,
}

AnyStage = Annotated[Stage, Choice(STAGES, "kind", "fedfm.stages")]

__all__ = ["STAGES", "AnyStage", "Clip", "Quantize", "Stage", "TopK"]
