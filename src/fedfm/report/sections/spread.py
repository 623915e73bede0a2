"""The distribution of the result over clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact


@dataclass(frozen=True)
class SpreadSection:
    """The last per-client evaluation; ``held_back``: on examples that clients held out, not on their test examples."""

    count: int
    round: int
    held_back: bool
    facts: list[Fact]
    charts: list[Chart]


def spread(run: RunFiles) -> SpreadSection | None:
    """The last per-client evaluation; None for a run without one."""
    metric = run.headline
    measured = [row for row in run.rows("client") if row.get(metric) is not None]
    if not measured:
        return None
    last = max(row["round"] for row in measured)
    rows = sorted((row for row in measured if row["round"] == last), key=lambda row: row[metric])
    held_back = any(client.get("holdout") for client in run.clients)
    return SpreadSection(
        len(rows), last, held_back, _facts(run, rows), [_ordered(rows, metric), *_by_size(run, rows, metric)]
    )


def _facts(run: RunFiles, rows: Sequence[Record]) -> list[Fact]:
    metric, figures = run.headline, dig(run.summary, "clients_spread") or {}
    notes = {
        "mean": ("Mean", "every client has the same weight"),
        "worst_10_percent": ("Worst 10 %", "mean of the worst tenth"),
        "deviation": ("Deviation", "standard deviation between clients"),
    }
    facts = [
        Fact(name, units.metric(metric, figures[key]), note) for key, (name, note) in notes.items() if key in figures
    ]
    ends = [
        Fact(name, units.metric(metric, row[metric]), f"client {row['client']}")
        for name, row in (("Lowest", rows[0]), ("Highest", rows[-1]))
    ]
    return facts + ends


def _ordered(rows: Sequence[Record], metric: str) -> Chart:
    name, values = units.metric_name(metric), [row[metric] for row in rows]
    draw = charts.sorted_values(values, [row["client"] for row in rows], metric=metric)
    title = f"{name} of each client, from {units.metric(metric, values[0])} to {units.metric(metric, values[-1])}"
    height = charts.bars_height(len(rows)) if len(rows) <= charts.FEW else 2.6
    return Chart(f"{name} of each client", svg.inline("clients", draw, title=title, width=5.4, height=height))


def _by_size(run: RunFiles, rows: Sequence[Record], metric: str) -> list[Chart]:
    """The metric against the size of the client, where there are at least 8 points."""
    sizes = {client["id"]: client["examples"] for client in run.clients}
    points = [(sizes[row["client"]], row[metric]) for row in rows if row["client"] in sizes]
    if len(points) < 8:
        return []
    name = units.metric_name(metric)
    draw = charts.value_by_size(*zip(*points, strict=True), metric=metric)
    title = f"{name} of each client against its number of examples"
    return [Chart(f"{name} against size", svg.inline("by-size", draw, title=title, width=5.4, height=2.6))]
