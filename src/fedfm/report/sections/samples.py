"""What a language model wrote before round 1 and after the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.printable import lines
from fedfm.records import units
from fedfm.records.reading import RunFiles
from fedfm.report.sections.parts import Table

SHOWN = 10
"""Rows in the report."""


@dataclass(frozen=True)
class SampleRow:
    """One prompt, the answer of the data, empty if it has none, and what the model wrote."""

    prompt: str
    answer: str
    before: str
    after: str


@dataclass(frozen=True)
class SamplesSection:
    """Scores of all written answers, None where the data has none, and the first of them."""

    scores: Table | None
    rows: Sequence[SampleRow]
    total: int


def samples(run: RunFiles) -> SamplesSection | None:
    """Written answers; None for a run without."""
    found = run.samples
    if found is None or not found["rows"]:
        return None
    scores = [
        [units.metric_name(name), units.metric(name, found["initial"].get(name)), units.metric(name, value)]
        for name, value in found["final"].items()
    ]
    table = Table(["score", "before round 1", "after the last"], scores) if scores else None
    rows = [
        SampleRow(*(lines(str(row[name] or "")) for name in ("prompt", "answer", "before", "after")))
        for row in found["rows"][:SHOWN]
    ]
    return SamplesSection(table, rows, len(found["rows"]))
