"""How each class fared on the test set: precision, recall, F1, and which is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig
from fedfm.report.sections.parts import Table

FEW = 20
"""Classes up to which every pair is shown, in the confusion matrix."""

MOST = 200
"""Classes that are shown at all: those with the lowest F1."""


@dataclass(frozen=True)
class Cell:
    """An entry of the confusion matrix: a count, and its share of the row, 0 to 1, for the shade."""

    count: int
    shade: float


@dataclass(frozen=True)
class ClassesSection:
    """How each class fared; ``confusion`` has a row a true class, where there are few."""

    figures: Table
    left_out: int
    names: Sequence[str]
    confusion: Sequence[tuple[str, Sequence[Cell]]]


def classes(run: RunFiles) -> ClassesSection | None:
    """The classes of the delivered model on the test set; None where it was not measured or has none."""
    found = run.evaluation
    rows: list[Record] = dig(found, "classes") or []
    if found is None or not rows:
        return None
    order = list(range(len(rows)))
    if len(rows) > MOST:
        order = sorted(sorted(order, key=lambda index: rows[index]["f1"] or 0.0)[:MOST])
    table = Table(
        ["class", "examples", "precision", "recall", "F1", "most often taken for"],
        [_row(found, index) for index in order],
    )
    names = [row["label"] for row in rows] if len(rows) <= FEW else []
    matrix = [(name, _cells(counts)) for name, counts in zip(names, found["confusion"], strict=False)]
    return ClassesSection(table, len(rows) - len(order), names, matrix)


def mistaken(found: Record, index: int) -> str:
    """The class that class ``index`` is most often taken for, with how often; a dash where it never is."""
    counts = [count if other != index else 0 for other, count in enumerate(found["confusion"][index])]
    most = max(counts, default=0)
    return f"{found['classes'][counts.index(most)]['label']} ({units.number(most)})" if most else units.DASH


def _row(found: Record, index: int) -> list[str]:
    row = found["classes"][index]
    figures = [units.metric("accuracy", row[name]) for name in ("precision", "recall", "f1")]
    return [row["label"], units.number(row["examples"]), *figures, mistaken(found, index)]


def _cells(counts: Sequence[int]) -> list[Cell]:
    total = sum(counts)
    return [Cell(count, count / total if total else 0.0) for count in counts]
