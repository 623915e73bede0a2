"""Classes: maps the values of a column to the numbers 0 to K − 1 and back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, Value

from fedfm.data.columns import column_of, described
from fedfm.data.lists import is_list, list_column
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,99}))(?:\.0+)?")
_TRUTH = ("true", "false")


@dataclass(frozen=True)
class LabelMap:
    """The classes of a task; the name of class k is ``names[k]``.

    Attributes:
        names: of the classes.
        aliases: other name of a class in some data → its name in ``names``.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_source(cls, source: Source, column: str, *, where: str = "data.label") -> LabelMap:
        """The classes of a training column: the class names of its type if it has them, otherwise its sorted values.

        Values are text as written in the file, with two exceptions: if all are whole numbers, 1.0 equals 1; if all are
        true or false, capitals are ignored. Whole numbers are sorted by value, text by code point.

        Raises:
            RecipeError: the column is missing, has another type, or contains only one class.
            DataError: values are missing, or are numbers that are not whole.
        """
        values = _values(source, column, where)
        feature = source.table.features[column]
        if isinstance(feature, ClassLabel):
            names, found = tuple(feature.names), len(set(values))
        else:
            _refuse_measurements(values, source, column, where)
            names = _in_order(set(values))
            found = len(names)
        if found < 2:
            raise RecipeError(
                f"column `{column}` of {source.name} has only one class, {values[0]}: classification needs two",
                where=where,
            )
        return cls(names)

    def encode(self, source: Source, column: str, *, where: str = "data.label") -> np.ndarray:
        """The class of each example, int64 [N].

        Raises:
            RecipeError: as for `from_source`.
            DataError: as for `from_source`; a value is not a known class.
        """
        values = _values(source, column, where)
        labels = self._codes(values)
        unknown = np.flatnonzero(labels < 0)
        if len(unknown):
            row = int(unknown[0])
            raise self._unknown(values[row], source, row, where)
        return labels

    @classmethod
    def from_lists(cls, source: Source, column: str, *, where: str = "data.label") -> LabelMap:
        """As `from_source`, for a column of lists of labels.

        Raises:
            RecipeError: the column is missing, has another type, or contains fewer than two labels.
            DataError: as for `fedfm.data.lists.list_column`.
        """
        lists, feature = list_column(source, column, where), source.table.features[column]
        found = {label for labels in lists for label in labels}
        listed = feature.feature if is_list(feature) else None
        names = tuple(listed.names) if isinstance(listed, ClassLabel) else _in_order(found)
        if len(found) < 2:
            raise RecipeError(
                f"column `{column}` of {source.name} has fewer than two labels ({', '.join(found) or 'none'})",
                where=where,
            )
        return cls(names)

    def encode_lists(self, source: Source, column: str, *, where: str = "data.label") -> list[np.ndarray]:
        """The labels of each example, int64 [labels of the example].

        Raises:
            RecipeError: as for `from_lists`.
            DataError: as for `from_lists`; a value is not a known label.
        """
        lists = list_column(source, column, where)
        codes = self._codes([label for labels in lists for label in labels])
        parts = np.split(codes, np.cumsum([len(labels) for labels in lists])[:-1])
        for row, (labels, part) in enumerate(zip(lists, parts, strict=True)):
            if (part < 0).any():
                raise self._unknown(labels[int(np.flatnonzero(part < 0)[0])], source, row, where)
        return parts

    def _codes(self, values: Sequence[str]) -> np.ndarray:
        """The class of each value, int64 [N]; -1 for one that is not known."""
        number = {name: index for index, name in enumerate(self.names)}
        number |= {alias: number[name] for alias, name in self.aliases.items()}
        known = {value: number.get(value, number.get(_plain(value), -1)) for value in set(values)}
        return np.array([known[value] for value in values], dtype=np.int64)

    def _unknown(self, value: str, source: Source, row: int, where: str) -> DataError:
        return DataError(
            f"{source.name} has the label {value!r} in {source.place(row)}, which is not one of the classes: "
            f"{_listed(self.names)}",
            where=where,
        )


def labels_of(source: Source, column: str | None, label_map: LabelMap | None) -> np.ndarray | None:
    """The class of each example, int64 [N]; None without a column.

    Raises:
        RecipeError, DataError: as for `LabelMap.encode`.
    """
    return label_map.encode(source, column) if column is not None and label_map is not None else None


def _values(source: Source, column: str, where: str) -> list[str]:
    """The labels as text."""
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if isinstance(feature, ClassLabel):
        codes = values.to_numpy()
        if (codes < 0).any():
            place = source.place(int(np.flatnonzero(codes < 0)[0]))
            raise DataError(f"{source.name} does not publish its labels: {place} has no label", where=where)
        return [feature.names[code] for code in codes]
    kinds = ("int", "uint", "bool", "string", "large_string", "float", "decimal")
    if not (isinstance(feature, Value) and feature.dtype.startswith(kinds)):
        more = "; several labels an example need `task.kind: multi-label`" if is_list(feature) else ""
        raise RecipeError(
            f"column `{column}` of {source.name} contains {described(feature)}; a label must be text, a whole number, "
            f"true or false{more}",
            where=where,
        )
    return [_text(value) for value in values.to_pylist()]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _in_order(values: set[str]) -> tuple[str, ...]:
    """The names of the classes, from all values of a column."""
    if all(map(_WHOLE.fullmatch, values)):
        return tuple(sorted({_plain(value) for value in values}, key=int))
    if all(value.lower() in _TRUTH for value in values):
        return tuple(sorted({_plain(value) for value in values}))
    return tuple(sorted(values))


def _plain(value: str) -> str:
    """A whole number without decimals, true and false in lower case; other text unchanged."""
    if whole := _WHOLE.fullmatch(value):
        return whole[1]
    return value.lower() if value.lower() in _TRUTH else value


def _refuse_measurements(values: Iterable[str], source: Source, column: str, where: str) -> None:
    """Refuses numbers that are not whole: they are measurements, and as classes they would lose their order."""
    first: tuple[int, str] | None = None
    for index, value in enumerate(values):
        try:
            number = float(value)
        except ValueError:
            return
        if first is None and math.isfinite(number) and not number.is_integer():
            first = index, value
    if first is not None:
        raise DataError(
            f"column `{column}` of {source.name} contains numbers that are not whole, such as {first[1]} in "
            f"{source.place(first[0])}; numbers to predict need `task.kind: regression`; if they are names of classes, "
            "list them in data.labels",
            where=where,
        )


def _listed(names: tuple[str, ...], most: int = 20) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
