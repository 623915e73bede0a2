"""Aggregation rules: how a round's updates become one. One rule, one file."""

from __future__ import annotations

from typing import Annotated

from fedfm.aggregation.mean import Mean, MeanFold
from fedfm.registry import Choice

RULES: dict[str, type[Mean]] = {"mean": Mean}

Aggregation = Annotated[Mean, Choice(RULES, "rule", "fedfm.rules")]

__all__ = ["RULES", "Aggregation", "Mean", "MeanFold"]
