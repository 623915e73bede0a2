"""Classes: from what a column holds to numbers 0 to K − 1 and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import ClassLabel, Value

from fedfm.data.columns import column_of, described
from fedfm.data.sources import Source
from fedfm.errors import RecipeError


@dataclass(frozen=True)
class LabelMap:
    """The classes of a task; class k is called ``names[k]``.

    Attributes:
        names: of the classes.
        aliases: other names of classes, as some data has them → the name here.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_source(cls, source: Source, column: str, *, where: str = "data.label") -> LabelMap:
        """The classes of a training column: its own names where it has them, else its values in order.

        Whole numbers are ordered by size, text by code point; true and false are called ``true`` and ``false``.

        Raises:
            RecipeError: when the column is missing, holds something else, has gaps, or only one class.
        """
        values = _values(source, column, where)
        feature = source.table.features[column]
        names = tuple(feature.names) if isinstance(feature, ClassLabel) else tuple(map(_name, sorted(set(values))))
        if len(set(values)) < 2:
            raise RecipeError(
                f"column `{column}` of {source.name} has one class only, {_name(values[0])}: there is nothing to learn",
                where=where,
            )
        return cls(names)

    def encode(self, source: Source, column: str, *, where: str = "data.label") -> np.ndarray:
        """The class of each example, int64 [N].

        Raises:
            RecipeError: as `from_source`, and when a value is none of the known classes.
        """
        number = {name: index for index, name in enumerate(self.names)}
        number |= {alias: number[name] for alias, name in self.aliases.items()}
        labels = np.array([number.get(_name(value), -1) for value in _values(source, column, where)], dtype=np.int64)
        unknown = np.flatnonzero(labels < 0)
        if len(unknown):
            row = int(unknown[0])
            value = _name(_values(source, column, where)[row])
            raise RecipeError(
                f"{source.name} has the label {value!r} in row {source.row_number(row)}, which is none of the classes: "
                f"{_listed(self.names)}",
                where=where,
            )
        return labels


def labels_of(source: Source, column: str | None, label_map: LabelMap | None) -> np.ndarray | None:
    """The class of each example, int64 [N]; None without a column.

    Raises:
        RecipeError: as `LabelMap.encode`.
    """
    return label_map.encode(source, column) if column is not None and label_map is not None else None


def _values(source: Source, column: str, where: str) -> list[Any]:
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if isinstance(feature, ClassLabel):
        codes = values.to_numpy()
        if (codes < 0).any():
            row = source.row_number(np.flatnonzero(codes < 0)[0])
            raise RecipeError(f"{source.name} keeps its labels secret: row {row} has none", where=where)
        return [feature.names[code] for code in codes]
    kinds = ("int", "uint", "bool", "string", "large_string")
    if not (isinstance(feature, Value) and feature.dtype.startswith(kinds)):
        raise RecipeError(
            f"column `{column}` of {source.name} holds {described(feature)}; a label is text, a whole number, "
            "or true or false",
            where=where,
        )
    listed: list[Any] = values.to_pylist()
    return listed


def _name(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(names: tuple[str, ...], most: int = 20) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
