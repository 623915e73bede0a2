"""What a language model wrote before round 1 and after the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.printable import lines
from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles
from fedfm.report.sections.parts import Fact, Table

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
    """Scores of all written answers, None where the data has none; what a judge said of them; and the first rows."""

    scores: Table | None
    rows: Sequence[SampleRow]
    total: int
    against: str = ""
    judged: Sequence[Fact] = ()


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
    judge = run.judge
    return SamplesSection(table, rows, len(found["rows"]), judge["against"] if judge else "", judged(judge))


def judged(judge: Record | None) -> list[Fact]:
    """What a judge's verdicts come to; empty without a judge."""
    if judge is None:
        return []
    error = "" if judge["standard_error"] is None else f", standard error {units.share(judge['standard_error'], 1)}"
    counted = judge["pairs"] - judge["failed"]
    failed = f"{judge['failed']} of {judge['pairs']} pairs have no verdict and are not counted"
    rates = (
        ("Win rate", "win_rate", f"wins and half of the ties, of {counted} pairs{error}"),
        ("Agreement", "agreement", "pairs with the same verdict in both positions"),
        ("First preferred", "prefers_first", "of all preferences; without a bias of position it is a half"),
        ("Longer preferred", "prefers_longer", "of all preferences between answers of different length"),
    )
    found = [Fact(name, units.share(judge[key], 1), note) for name, key, note in rates if judge[key] is not None]
    results = f"{judge['wins']} / {judge['ties']} / {judge['losses']}"
    note = f"{judge['identical']} of the ties are identical answers"
    return [
        *found,
        Fact("Wins / ties / losses", results, note),
        *([Fact("Failed", str(judge["failed"]), failed)] if judge["failed"] else []),
    ]
