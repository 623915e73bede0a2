"""A stream of tasks: what is learned, and what is forgotten, round by round and task by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedfm.records import units
from fedfm.records.forgetting import BACKWARD, FORGETTING, FORWARD, SPLIT, average_of
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact, LegendKey, Table

MOST_CLIENTS = 50
"""Clients in the table, those that forgot most first."""


@dataclass(frozen=True)
class ContinualSection:
    """Curves, the matrix of tasks, and single clients; ``left_out``: clients that are not in the table."""

    facts: list[Fact]
    legend: list[LegendKey]
    charts: list[Chart]
    matrix: Table
    clients: Table
    left_out: int


def continual(run: RunFiles) -> ContinualSection | None:
    """The tasks; None for a run without a stream."""
    every = [row for row in run.rows(SPLIT) if row.get("tasks")]
    rows = [row for row in every if row.get("client") is None]
    if not any(row.get("task") for row in rows):
        return None
    metric = run.headline
    clients = _clients([row for row in every if row.get("client") is not None], metric)
    return ContinualSection(
        _facts(rows[-1], metric),
        [LegendKey("--test", f"average {units.metric_name(metric)}"), LegendKey("--validation", "forgetting")],
        [_curves(rows, metric), _heat(rows)],
        _matrix(rows),
        Table(clients.columns, clients.rows[:MOST_CLIENTS]),
        max(0, len(clients.rows) - MOST_CLIENTS),
    )


def _facts(last: Record, metric: str) -> list[Fact]:
    notes = {
        average_of(metric): (f"Average {units.metric_name(metric)}", "over the tasks so far, on the test set"),
        FORGETTING: ("Forgetting", "best value on a task after any task so far, minus the present one; mean"),
        BACKWARD: ("Backward transfer", "present value on a task minus the one right after it; mean"),
        FORWARD: ("Forward transfer", "value on a task right before it minus the one before round 1; mean"),
    }
    return [Fact(name, _figure(last[key]), note) for key, (name, note) in notes.items() if last.get(key) is not None]


def _curves(rows: Sequence[Record], metric: str) -> Chart:
    lines = []
    for role, key in (("validation", FORGETTING), ("test", average_of(metric))):
        known = [row for row in rows if row.get(key) is not None]
        if known:
            lines.append(charts.Curve(role, [row["round"] for row in known], [row[key] for row in known]))
    title = f"Average {units.metric_name(metric)} over the tasks so far, and forgetting, by round"
    return Chart(title, svg.inline("continual", charts.ratios(lines, axis="rounds"), title=title))


def _heat(rows: Sequence[Record]) -> Chart:
    names = list(rows[0]["tasks"])
    values = np.array([[_number(row["tasks"].get(name)) for row in rows] for name in names])
    draw = charts.heat(np.nan_to_num(values), [row["round"] for row in rows], names)
    title = "Each task by round, the darker the better"
    height = charts.bars_height(len(names))
    return Chart(title, svg.inline("continual-tasks", draw, title=title, width=5.4, height=height))


def _matrix(rows: Sequence[Record]) -> Table:
    """The value on each task before round 1 and after each task, or so far."""
    last = {row.get("task"): row for row in rows}
    names = list(rows[0]["tasks"])
    shown = [
        [after or "before round 1", *(_figure(_number(row["tasks"].get(name))) for name in names)]
        for after, row in last.items()
    ]
    return Table(["after task", *names], shown)


def _clients(rows: Sequence[Record], metric: str) -> Table:
    """The last figures of each client."""
    last = {row["client"]: row for row in rows}
    keys = (average_of(metric), FORGETTING, BACKWARD, FORWARD)
    ordered = sorted(last.values(), key=lambda row: (-_number(row.get(FORGETTING), 0.0), str(row["client"])))
    columns = ["client", f"average {units.metric_name(metric)}", "forgetting", "backward transfer", "forward transfer"]
    return Table(columns, [[str(row["client"]), *(_figure(_number(row.get(key))) for key in keys)] for row in ordered])


def _number(value: float | None, missing: float = math.nan) -> float:
    return missing if value is None else value


def _figure(value: float) -> str:
    return units.typeset(f"{value:.3f}") if math.isfinite(value) else units.DASH
