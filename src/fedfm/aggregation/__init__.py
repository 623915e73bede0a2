"""Aggregation rules: how a round's updates become one. One rule, one file; the registry is `AGGREGATION_RULES`."""

from __future__ import annotations

from fedfm.aggregation.mean import Mean, MeanFold

AGGREGATION_RULES = {"mean": Mean}
Aggregation = Mean

__all__ = ["AGGREGATION_RULES", "Aggregation", "Mean", "MeanFold"]
