"""What each client has of the run, and every client's model on every client's examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact, Table

SHOWN = 50
"""Clients in the table and in the chart, at most."""

COLUMNS = {"before": "Before", "after": "After", "shared": "Shared model", "local": "Alone", "pooled": "Pooled data"}
"""Name of a figure in summary.json → its name in the report."""


@dataclass(frozen=True)
class ComparisonSection:
    """Figures by client; ``left_out``: clients that the table does not have, which lost least or gained most."""

    facts: list[Fact]
    clients: Table | None
    left_out: int
    charts: list[Chart]


def comparison(run: RunFiles) -> ComparisonSection | None:
    """The figures by client, and the matrix; None for a run without either."""
    compared, matrix = dig(run.summary, "clients_compared"), run.matrix
    if not compared and not matrix:
        return None
    facts, table, left_out = list[Fact](), None, 0
    if compared:
        names = [name for name in COLUMNS if name in compared["spread"]]
        facts = _facts(compared, names)
        rows = _ordered(compared)
        table = _table(rows[:SHOWN], names, compared["metric"])
        left_out = max(0, len(rows) - SHOWN)
    return ComparisonSection(facts, table, left_out, [_heat(matrix)] if matrix else [])


def _facts(compared: Record, names: list[str]) -> list[Fact]:
    metric = compared["metric"]
    worst = [
        Fact(f"Worst 10 %: {COLUMNS[name].lower()}", units.metric(metric, compared["spread"][name]["worst_10_percent"]))
        for name in names
        if "worst_10_percent" in compared["spread"][name]
    ]
    notes = {
        "before": "than before the run",
        "shared": "with their own model than with the shared one",
        "local": "than if they had trained alone",
        "pooled": "than with one model of all data",
    }
    return worst + [
        Fact("Worse off", units.number(len(compared["worse_than"][name])), f"clients, {notes[name]}")
        for name in names
        if name in compared["worse_than"] and name in notes
    ]


def _ordered(compared: Record) -> list[tuple[str, Mapping[str, float | None]]]:
    """Clients, those with the least gain over training alone (or over what there is) first; without ``after``, last."""
    against = next((name for name in ("local", "shared", "before") if name in compared["worse_than"]), None)

    def gain(item: tuple[str, Mapping[str, float | None]]) -> tuple[bool, float, str]:
        client, found = item
        after, other = found.get("after"), found.get(against or "")
        missing = after is None or other is None
        sign = -1.0 if client in compared["worse_than"].get(against, ()) else 1.0
        return missing, 0.0 if after is None or other is None else sign * abs(after - other), client

    return sorted(compared["by_client"].items(), key=gain)


def _table(rows: list[tuple[str, Mapping[str, float | None]]], names: list[str], metric: str) -> Table:
    def text(value: float | None) -> str:
        return "–" if value is None else units.metric(metric, value)

    body = [[client, *(text(found.get(name)) for name in names)] for client, found in rows]
    return Table(["Client", *(COLUMNS[name] for name in names)], body)


def _heat(matrix: Record) -> Chart:
    """The matrix of at most `SHOWN` clients; cells from white at the smallest figure to dark at the largest."""
    names = matrix["clients"][:SHOWN]
    values = np.array(matrix["values"], dtype=np.float64)[:SHOWN, :SHOWN]
    least, most = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    shares = np.nan_to_num((values - least) / (most - least if most > least else 1.0))
    metric = matrix["metric"]
    name, ends = units.metric_name(metric), f"{units.metric(metric, least)} to {units.metric(metric, most)}"
    draw = charts.heat(shares, range(1, len(names) + 1), names, below="examples of client, in the order of the rows")
    title = f"{name} of each client’s model (rows) on each client’s examples (columns), white to dark: {ends}"
    image = svg.inline("matrix", draw, title=title, width=5.4, height=charts.bars_height(len(names)))
    return Chart(title, image)
