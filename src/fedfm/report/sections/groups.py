"""Clients that train and clients that never do: means with both weights."""

from __future__ import annotations

from fedfm.records import units
from fedfm.records.reading import RunFiles, dig
from fedfm.report.sections.parts import Table

NAMES = {
    "trained_before": "that train, before round 1",
    "trained": "that train",
    "unseen_before": "that never train, before round 1",
    "unseen": "that never train",
}
"""Group of clients → its name."""


def groups(run: RunFiles) -> Table | None:
    """A row for each group of clients; None where no client was measured with its predictions."""
    found = dig(run.summary, "client_groups") or {}
    known = [group for group in NAMES if group in found]
    if not known:
        return None
    metrics = list(dict.fromkeys([run.headline, "loss"]))
    weights = {"by_predictions": "by predictions", "by_clients": "by clients"}
    columns = ["clients", "number", "predictions"]
    columns += [f"{units.metric_name(metric)} {words}" for metric in metrics for words in weights.values()]
    rows = []
    for group in known:
        counts = [units.number(found[group][key]) for key in ("clients", "predictions")]
        figures = [units.metric(metric, found[group][by].get(metric)) for metric in metrics for by in weights]
        rows.append([NAMES[group], *counts, *figures])
    return Table(columns, rows)
