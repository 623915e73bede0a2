"""Which layers clients trained, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact


@dataclass(frozen=True)
class SelectionSection:
    """Figures of the choices of all rounds, and their chart."""

    facts: list[Fact]
    charts: list[Chart]


def selection(run: RunFiles) -> SelectionSection | None:
    """The choices; None for a run in which the server did not choose."""
    rows = [row for row in run.rows("selection") if row.get("layers")]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row["layers"]))
    counts = np.array([[row["layers"].get(name, {}).get("clients") or 0 for row in rows] for name in names], float)
    shares = counts / np.maximum(counts.max(0), 1)
    draw = charts.heat(shares, [row["round"] for row in rows], names)
    image = svg.inline(
        "selection",
        draw,
        title="Layers that clients trained, by round",
        width=5.4,
        height=charts.bars_height(len(names)),
    )
    return SelectionSection(_facts(rows), [Chart("Layers that clients trained", image)])


def _facts(rows: Sequence[Record]) -> list[Fact]:
    wanted = {
        "distinct_layers": ("Layers a round", "that at least one client trained; mean over rounds"),
        "budget_used": ("Budget used", "mean over clients and rounds"),
        "disagreement": ("Disagreement", "Σ χ² between the weights of a layer’s clients and their data; 0: all alike"),
        "unselected_gradient": ("Gradient left out", "Σ ‖g‖² of layers that nobody trained; mean over rounds"),
    }
    found = []
    for key, (name, note) in wanted.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            mean = float(np.mean(values))
            text = units.share(mean, 1) if key == "budget_used" else units.typeset(f"{mean:.3g}")
            found.append(Fact(name, text, note))
    return found
