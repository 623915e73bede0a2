"""Aggregation rules: how a round's updates become one. One rule, one file; the registry is `AGGREGATION_RULES`."""

from __future__ import annotations

from fedfm.aggregation.mean import Mean

AGGREGATION_RULES = {"mean": Mean}
Aggregation = Mean
