"""Stages of the update path, one reversible step a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from fedfm.updates.stages.base import Stage

STAGES: dict[str, type[Stage]] = {}

__all__ = ["STAGES", "Stage"]
