"""Stages of the update path, one reversible step a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.updates.stages.base import Stage

STAGES: dict[str, type[Stage]] = {}

AnyStage = Annotated[Stage, Choice(STAGES, "kind", "fedfm.stages")]

__all__ = ["STAGES", "AnyStage", "Stage"]
