"""Failures, refusals and interruptions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles
from fedfm.report.sections.checks import is_passed

SHOWN = 50
"""Rows of the table: the latest events."""

REGULAR = frozenset({"arrival"})
"""Kinds of events that are no faults: the order of answers in an asynchronous run."""


@dataclass(frozen=True)
class FaultsSection:
    """The number of events of each kind, the latest events, and the number of events that are not shown."""

    counts: list[tuple[str, int]]
    rows: list[Record]
    left_out: int


def faults(run: RunFiles) -> FaultsSection:
    """Counts by kind, and the latest events."""
    events = [event for event in run.events if event["kind"] not in REGULAR and not is_passed(event)]
    counts = Counter(str(event["kind"]) for event in events)
    rows = events[-SHOWN:]
    return FaultsSection(counts.most_common(), rows, len(events) - len(rows))
