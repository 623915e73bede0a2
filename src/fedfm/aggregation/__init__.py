"""Aggregation rules: how a round's updates become one. One rule, one file."""

from __future__ import annotations

from fedfm.aggregation.mean import Mean, MeanFold

Aggregation = Mean

__all__ = ["Aggregation", "Mean", "MeanFold"]
