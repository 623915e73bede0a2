"""What crossed between server and clients: the wire ledger in short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.ledger import Direction, TensorGroup
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact

SHOWN = 200
"""Rows of the table, those that crossed first."""


@dataclass(frozen=True)
class WireRow:
    """Alike tensors, and how much of them went each way."""

    name: str
    tensors: int
    shape: str
    dtype: str
    down: str
    up: str


@dataclass(frozen=True)
class Wire:
    """What crossed."""

    facts: list[Fact]
    charts: list[Chart]
    rows: list[WireRow]
    left_out: int


def wire(run: RunFiles) -> Wire | None:
    """The ledger in short; None when there is none."""
    by_round = run.traffic["by_round"]
    if not by_round:
        return None
    rounds = sorted(by_round)
    down, up = [by_round[number]["down"] for number in rounds], [by_round[number]["up"] for number in rounds]
    facts = [
        Fact("Down", units.size(sum(down)), f"{units.size(sum(down) / len(rounds))} a round"),
        Fact("Up", units.size(sum(up)), f"{units.size(sum(up) / len(rounds))} a round"),
    ]
    first = dig(run.summary, "bytes.first_download")
    if first:
        facts.append(Fact("Before round 1", units.size(first), "once to each client, not counted above"))
    title = f"Bytes of each round: {units.size(sum(down))} down and {units.size(sum(up))} up in all"
    image = svg.inline("traffic", charts.traffic(rounds, down, up), title=title, width=8.2, height=2.4)
    rows = _rows(run.tensors)
    return Wire(facts, [Chart("Bytes of each round", image)], rows[:SHOWN], max(0, len(rows) - SHOWN))


def _rows(groups: Sequence[TensorGroup]) -> list[WireRow]:
    """The groups of both directions side by side."""
    found: dict[tuple[str, str, tuple[int, ...]], dict[Direction, TensorGroup]] = {}
    for group in groups:
        found.setdefault((group.name, group.dtype, group.shape), {})[group.direction] = group
    rows = []
    for (name, dtype, shape), ways in found.items():
        tensors = max(group.tensors for group in ways.values())
        down, up = (units.size(ways[way].sent) if way in ways else units.DASH for way in _BOTH)
        rows.append(WireRow(name, tensors, " × ".join(map(str, shape)) or "scalar", dtype, down, up))
    return rows


_BOTH: tuple[Direction, Direction] = ("down", "up")
