"""Tasks by the value of a column: time slices, sources, domains; their examples have the same classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.data.columns import column_of
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import Source
from fedfm.data.streams.base import WHERE, Stream, StreamTasks
from fedfm.errors import RecipeError


class ColumnStream(Stream):
    """Each value of a column is a task, such as a month or a source (domain-incremental learning)."""

    kind: Literal["column"] = "column"
    """Each value of a column is a task, such as a month or a source (domain-incremental learning)."""
    column: Annotated[str, Field(min_length=1)]
    """Column that says which task an example belongs to; training and test data have it."""
    order: list[str] | None = None
    """Its values in the order of the tasks; null: numbers by size, other values as text."""

    def columns(self) -> list[RequestedColumn]:
        """As `Stream.columns`."""
        return [RequestedColumn(self.column, "any", f"{WHERE}.column")]

    def values(self, source: Source, examples: Examples, labels: LabelMap | None, where: str) -> list[str]:
        """The column."""
        if len(examples) != len(source):
            raise RecipeError(
                f"{where} has {len(source)} rows that make {len(examples)} examples, so that an example can belong to "
                "several tasks; leave rows apart (data.pack), or use fewer documents a row",
                where=f"{WHERE}.column",
            )
        return [str(value) for value in column_of(source, self.column, f"{WHERE}.column").to_pylist()]

    def plan(self, values: Sequence[str], labels: LabelMap | None) -> StreamTasks:
        """One task a value."""
        found = set(values)
        if self.order is None:
            names = sorted(found, key=_by_size) if all(map(_is_number, found)) else sorted(found)
        else:
            names = list(self.order)
            if len(set(names)) < len(names):
                raise RecipeError("a value is named twice", where=f"{WHERE}.order")
            if left := sorted(found - set(names)):
                raise RecipeError(f"column `{self.column}` also has the value {left[0]!r}", where=f"{WHERE}.order")
        return StreamTasks(tuple(names), {name: number for number, name in enumerate(names)})

    def check(self, tasks: StreamTasks, numbers: np.ndarray, examples: Examples, labels: LabelMap | None) -> None:
        """Also refuses tasks that bring classes which the first does not have, unless `heads` says what to do."""
        super().check(tasks, numbers, examples, labels)
        if labels is None or examples.labels is None or self.heads is not None:
            return
        first = set(examples.labels[numbers == 0].tolist())
        for number, name in enumerate(tasks.names[1:], start=1):
            if other := sorted(set(examples.labels[numbers == number].tolist()) - first):
                raise RecipeError(
                    f"task `{name}` has the class {labels.names[other[0]]!r}, which task `{tasks.names[0]}` does not "
                    "have: set `heads: per-task` to give each task a head of its own, or `heads: shared` to train one "
                    "head on the classes of all tasks",
                    where=f"{WHERE}.heads",
                )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _by_size(text: str) -> tuple[float, str]:
    return float(text), text
