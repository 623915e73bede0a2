"""Synthetic texts of a run: what they are worth with and without votes."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.reading import RunFiles
from fedfm.report.sections.parts import Table

COLUMNS = {
    "kernel_distance": "distance to the test set",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs of words",
    "nearer_to_train": "nearer to training than to test",
}
"""Score → heading, behind the task's metric."""


@dataclass(frozen=True)
class SyntheticSection:
    """Scores of each set of texts; ``texts``: how many the run has written."""

    scores: Table
    texts: int


def synthetic(run: RunFiles) -> SyntheticSection | None:
    """The scores; None for a run without synthetic texts."""
    found = run.synthetic
    if found is None:
        return None
    metric, sets = found["metric"], found["sets"]
    rows = [
        [
            name,
            units.metric(metric, scores.get(metric)),
            *(units.typeset("–" if scores.get(key) is None else f"{scores[key]:.3g}") for key in COLUMNS),
        ]
        for name, scores in sets.items()
    ]
    head = ["head trained on", f"{units.metric_name(metric)} on real test examples", *COLUMNS.values()]
    return SyntheticSection(Table(head, rows), found["texts"])
