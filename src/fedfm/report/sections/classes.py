"""The classes on the test set: precision, recall, F1, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.records.reading import RunFiles, dig
from fedfm.report.sections.parts import Table

FEW = 20
"""The largest number of classes for which the confusion matrix is shown."""

MOST = 200
"""The largest number of classes in the table: those with the lowest F1."""


@dataclass(frozen=True)
class Cell:
    """An entry of the confusion matrix: a count, and its share of the row, 0 to 1, for the shade."""

    count: int
    shade: float


@dataclass(frozen=True)
class ClassesSection:
    """Figures of each class; ``confusion`` has one row a true class, and is empty for many classes."""

    figures: Table
    left_out: int
    names: Sequence[str]
    confusion: Sequence[tuple[str, Sequence[Cell]]]


def classes(run: RunFiles) -> ClassesSection | None:
    """The classes of the delivered model on the test set; None for a model without classes or without a measurement."""
    found = run.evaluation
    rows: list[Record] = dig(found, "classes") or []
    if found is None or not rows:
        return None
    order = list(range(len(rows)))
    if len(rows) > MOST:
        order = sorted(sorted(order, key=lambda index: rows[index]["f1"] or 0.0)[:MOST])
    table = Table(
        ["class", "examples", "precision", "recall", "F1", "most often predicted instead"],
        [_row(found, index) for index in order],
    )
    names = [row["label"] for row in rows] if len(rows) <= FEW else []
    matrix = [(name, _cells(counts)) for name, counts in zip(names, found["confusion"], strict=False)]
    return ClassesSection(table, len(rows) - len(order), names, matrix)


def mistaken(found: Record, index: int) -> str:
    """The most frequent wrong prediction for class ``index`` and its count; a dash without any, or where labels do not
    exclude each other.
    """
    if not found["confusion"]:
        return units.DASH
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
