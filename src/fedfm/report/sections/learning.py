"""The learning curves: the headline metric and the loss against rounds, bytes and seconds."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, metric_keys
from fedfm.report import charts, svg
from fedfm.report.sections.outcome import baselines
from fedfm.report.sections.parts import Chart, LegendKey, Table

SPLITS = ("train", "validation", "clients", "test")
"""What is drawn; ``clients`` is the mean over clients."""

AXES: dict[str, tuple[str, Callable[[float], str] | None]] = {
    "rounds": ("rounds", None),
    "bytes": ("bytes sent, both ways", units.size),
    "seconds": ("time", units.duration),
}
"""What a metric is drawn against → the label of the axis, and the format of its values (None: whole numbers)."""


@dataclass(frozen=True)
class LearningSection:
    """The curves and their figures."""

    legend: list[LegendKey]
    charts: list[Chart]
    figures: Table


def learning(run: RunFiles) -> LearningSection | None:
    """Curves and figures; None when nothing was measured."""
    present = [name for name in SPLITS if _rows(run, name)]
    if not present:
        return None
    levels = baselines(run)
    drawn = [
        _curve(run, metric, axis, levels if metric == run.headline else [])
        for metric in dict.fromkeys([run.headline, "loss"])
        for axis in AXES
    ]
    legend = [LegendKey(f"--{name}", name) for name in present] + [LegendKey("dashed", "baselines")] * bool(levels)
    return LearningSection(legend, [chart for chart in drawn if chart], _figures(run))


def _curve(run: RunFiles, metric: str, axis: str, references: Sequence[tuple[str, float]]) -> Chart | None:
    """One chart; None when what it needs was not recorded."""
    if axis == "bytes" and not run.traffic["by_round"]:
        return None
    place = _bytes_until(run) if axis == "bytes" else operator.itemgetter("round" if axis == "rounds" else "seconds")
    lines = []
    for name in SPLITS:
        rows = [row for row in _rows(run, name) if metric in row and (axis != "seconds" or "seconds" in row)]
        if rows:
            values = [math.nan if row[metric] is None else row[metric] for row in rows]
            lines.append(charts.Curve(name, [place(row) for row in rows], values))
    if not lines:
        return None
    name, (label, unit), last = units.metric_name(metric), AXES[axis], lines[-1]
    moved = f"from {units.metric(metric, last.y[0])} to {units.metric(metric, last.y[-1])}"
    title = f"{name} on {last.role} against {label}: {moved}"
    draw = charts.curves(lines, metric=metric, axis=label, unit=unit, references=references)
    return Chart(f"{name} against {axis}", svg.inline(f"{metric}-{axis}", draw, title=title))


def _rows(run: RunFiles, split: str) -> list[Record]:
    """The lines of one curve; means over clients only where clients were evaluated more than once, or judge the run."""
    if split != "clients":
        return run.rows(split)
    return run.client_means if run.by_clients or len(run.client_means) > 1 else []


def _bytes_until(run: RunFiles) -> Callable[[Record], int]:
    """For a row, the bytes that were sent until the end of its round."""
    by_round = run.traffic["by_round"]
    rounds = range(max(by_round) + 1)
    sent = [by_round[number]["down"] + by_round[number]["up"] if number in by_round else 0 for number in rounds]
    until = list(itertools.accumulate(sent))
    return lambda row: until[min(row["round"], len(until) - 1)]


def _figures(run: RunFiles) -> Table:
    """One row a round with every metric of every split, bytes and time."""
    keys = [(name, key) for name in SPLITS for key in metric_keys(_rows(run, name))]
    by_round: dict[int, dict[str, Record]] = {}
    for name in SPLITS:
        for row in _rows(run, name):
            by_round.setdefault(row["round"], {})[name] = row
    columns = ["round", *(f"{name} {units.metric_name(key)}" for name, key in keys), "down", "up", "elapsed"]
    rows = []
    for number, splits in sorted(by_round.items()):
        traffic = run.traffic["by_round"].get(number)
        sent = [units.size(traffic["down"]), units.size(traffic["up"])] if traffic else [units.DASH, units.DASH]
        scores = [units.metric(key, splits.get(name, {}).get(key)) for name, key in keys]
        elapsed = max((row["seconds"] for row in splits.values() if "seconds" in row), default=None)
        rows.append([str(number), *scores, *sent, units.DASH if elapsed is None else units.duration(elapsed)])
    return Table(columns, rows)
