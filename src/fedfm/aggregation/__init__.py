"""Aggregation rules: how a round's updates become one. One rule, one file."""

from __future__ import annotations

from fedfm.aggregation.base import Contribution, Fold, Rule
from fedfm.aggregation.mean import Mean

RULES: dict[str, type[Rule]] = {"mean": Mean}

Aggregation = Mean

__all__ = ["RULES", "Aggregation", "Contribution", "Fold", "Mean", "Rule"]
