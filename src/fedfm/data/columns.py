"""A source's columns, checked before anything uses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Value

from fedfm.data.readers.request import missing_column
from fedfm.data.settings import FILE
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError


def column_of(source: Source, column: str, where: str) -> pa.ChunkedArray:
    """The values of one column, as stored.

    Raises:
        RecipeError: when the source has no such column.
        DataError: when a value is missing or a blank text.
    """
    if column not in source.table.column_names:
        raise RecipeError(missing_column(column, source.table.column_names, source.name), where=where)
    values = source.table.select_columns(column).with_format("arrow")[:][column]
    _refuse(pc.is_null(values, nan_is_null=True), source, where, f"column `{column}` is empty")
    if is_text(source.table.features[column]):  # CSV writes a gap as a blank
        _refuse(pc.equal(pc.utf8_trim_whitespace(values), ""), source, where, f"column `{column}` is blank")
    return values


def text_column(source: Source, column: str, where: str) -> list[str]:
    """The texts of one column.

    Raises:
        RecipeError: as `column_of`, and when it does not hold text.
        DataError: as `column_of`.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if not is_text(feature):
        raise RecipeError(f"column `{column}` of {source.name} holds {described(feature)}, not text", where=where)
    texts: list[str] = values.to_pylist()
    return texts


def clients_of(source: Source, column: str | None) -> np.ndarray | None:
    """As `client_column`, or by file where ``column`` is `FILE`; None without a column, and where examples that are not
    trained on lack it or are in one file.

    Raises:
        RecipeError, DataError: as `client_column`, and where there are no files to tell apart.
    """
    if column == FILE:
        return _files_of(source)
    if column is None or (source.split != "train" and column not in source.table.column_names):
        return None
    return client_column(source, column)


def client_column(source: Source, column: str, where: str = "data.client") -> np.ndarray:
    """The client of each example: str objects [N], for text, number and class columns alike.

    Raises:
        RecipeError: as `column_of`, and when the column holds lists, images or the like.
        DataError: as `column_of`.
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
    clients[:] = [str(value).lower() if isinstance(value, bool) else str(value) for value in values.to_pylist()]
    return clients


def _files_of(source: Source) -> np.ndarray | None:
    if FILE in source.table.column_names:
        raise RecipeError(
            f"`{FILE}` makes each file a client, but {source.name} has a column of that name too; rename the column",
            where="data.client",
        )
    if source.split != "train" and len(source.parts) < 2:
        return None
    if not source.parts:
        raise RecipeError(f"`{FILE}` makes each file a client, and {source.name} is no file", where="data.client")
    names = np.array([part.client for part in source.parts], dtype=object)
    return np.asarray(names[source.parts_of(np.arange(len(source)))])


def is_text(feature: Any) -> bool:
    """Whether a feature holds text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def described(feature: Any) -> str:
    """A feature type in a word: ``int64``, ``timestamp[s]``, ``Image``, ``List``."""
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _refuse(wrong: pa.ChunkedArray, source: Source, where: str, what: str) -> None:
    found = np.flatnonzero(wrong.to_numpy())
    if len(found):
        raise DataError(
            f"{what} in {len(found)} of {len(source)} rows of {source.name}, first in {source.place(found[0])}",
            where=where,
        )
