"""A source's columns, checked before anything uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Value

from fedfm.data.sources import Source
from fedfm.errors import RecipeError


def column_of(source: Source, column: str, where: str) -> pa.ChunkedArray:
    """The values of one column, as stored.

    Raises:
        RecipeError: when the source has no such column, or a value is missing or a blank text.
    """
    if column not in source.table.column_names:
        raise RecipeError(
            f"no column `{column}` in {source.name}; columns: {', '.join(source.table.column_names)}", where=where
        )
    values = source.table.select_columns(column).with_format("arrow")[:][column]
    _refuse(pc.is_null(values), source, where, f"column `{column}` is empty")
    if is_text(source.table.features[column]):  # CSV writes a gap as a blank
        _refuse(pc.equal(pc.utf8_trim_whitespace(values), ""), source, where, f"column `{column}` is blank")
    return values


def text_column(source: Source, column: str, where: str) -> list[str]:
    """The texts of one column.

    Raises:
        RecipeError: as `column_of`, and when it does not hold text.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if not is_text(feature):
        raise RecipeError(f"column `{column}` of {source.name} holds {described(feature)}, not text", where=where)
    texts: list[str] = values.to_pylist()
    return texts


def clients_of(source: Source, column: str | None) -> np.ndarray | None:
    """As `client_column`; None without a column, and where examples that are not trained on lack it.

    Raises:
        RecipeError: as `client_column`.
    """
    if column is None or (source.split != "train" and column not in source.table.column_names):
        return None
    return client_column(source, column)


def client_column(source: Source, column: str, where: str = "data.client") -> np.ndarray:
    """The client of each example: str objects [N], for text, number and class columns alike.

    Raises:
        RecipeError: as `column_of`, and when the column holds lists, images or the like.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if isinstance(feature, ClassLabel):
        _refuse(pc.less(values, 0), source, where, f"column `{column}` is empty")
        names = np.array(feature.names, dtype=object)
        return np.asarray(names[values.to_numpy()])
    if not isinstance(feature, Value) or feature.dtype.startswith("float"):
        raise RecipeError(
            f"column `{column}` of {source.name} holds {described(feature)}; a client's name is text or a whole number",
            where=where,
        )
    clients = np.empty(len(values), dtype=object)
    clients[:] = [str(value) for value in values.to_pylist()]
    return clients


def is_text(feature: Any) -> bool:
    """Whether a feature holds text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def described(feature: Any) -> str:
    """A feature type in a word: ``int64``, ``timestamp[s]``, ``Image``, ``List``."""
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _refuse(wrong: pa.ChunkedArray, source: Source, where: str, what: str) -> None:
    found = np.flatnonzero(wrong.to_numpy())
    if len(found):
        first = source.row_number(found[0])
        raise RecipeError(
            f"{what} in {len(found)} of {len(source)} rows of {source.name}, first in row {first}", where=where
        )
