"""Clients with backbones of their own: what each architecture reached, in the federation and alone."""

from __future__ import annotations

from fedfm.records import units
from fedfm.records.reading import RunFiles, dig
from fedfm.report.sections.parts import Table


def own_models(run: RunFiles) -> Table | None:
    """One row for each of `federation.models`; None for a run without."""
    found = dig(run.summary, "models") or []
    if not found:
        return None
    metric = run.headline
    columns = ["Model", "Clients", "Measured", f"{units.metric_name(metric)} in the federation", "Alone"]

    def shown(scores: dict[str, float] | None) -> str:
        return units.metric(metric, scores[metric]) if scores and metric in scores else "–"

    rows = [
        [of["model"], str(of["clients"]), str(of["measured"]), shown(of["final"]), shown(of["alone"])] for of in found
    ]
    return Table(columns, rows)
