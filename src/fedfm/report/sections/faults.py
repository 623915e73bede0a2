"""What did not go as planned."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles

SHOWN = 50
"""Rows of the table, the latest."""


@dataclass(frozen=True)
class FaultsSection:
    """How many events there were of each kind, the latest of them, and how many are not shown."""

    counts: list[tuple[str, int]]
    rows: list[Record]
    left_out: int


def faults(run: RunFiles) -> FaultsSection:
    """Counts by kind, and the latest events."""
    counts = Counter(str(event["kind"]) for event in run.events)
    rows = run.events[-SHOWN:]
    return FaultsSection(counts.most_common(), rows, len(run.events) - len(rows))
