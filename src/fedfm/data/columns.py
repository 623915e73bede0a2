"""Reads columns of a source, and checks them before they are used."""

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
        RecipeError: the source has no such column.
        DataError: a value is missing or is blank text.
    """
    if column not in source.table.column_names:
        raise RecipeError(missing_column(column, source.table.column_names, source.name), where=where)
    values = source.table.select_columns(column).with_format("arrow")[:][column]
    _refuse(pc.is_null(values, nan_is_null=True), source, where, f"column `{column}` is empty")
    if is_text(source.table.features[column]):  # a missing value in CSV is blank
        _refuse(pc.equal(pc.utf8_trim_whitespace(values), ""), source, where, f"column `{column}` is blank")
    return values


def text_column(source: Source, column: str, where: str) -> list[str]:
    """The texts of one column.

    Raises:
        RecipeError: as for `column_of`; the column does not contain text.
        DataError: as for `column_of`.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if not is_text(feature):
        raise RecipeError(f"column `{column}` of {source.name} contains {described(feature)}, not text", where=where)
    texts: list[str] = values.to_pylist()
    return texts


def clients_of(source: Source, column: str | None) -> np.ndarray | None:
    """The client of each example: by column, or by file if ``column`` is `FILE`.

    None if no column is given. For validation and test data, also None if they lack the column or are a single file.

    Raises:
        RecipeError, DataError: as for `client_column`; the source has no files, but ``column`` is `FILE`.
    """
    if column == FILE:
        return _files_of(source)
    if column is None or (source.split != "train" and column not in source.table.column_names):
        return None
    return client_column(source, column)


def client_column(source: Source, column: str, where: str = "data.client") -> np.ndarray:
    """The client of each example, str objects [N], from a column of text, whole numbers or classes.

    Raises:
        RecipeError: as for `column_of`; the column has another type, such as lists or images.
        DataError: as for `column_of`.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if isinstance(feature, ClassLabel):
        _refuse(pc.less(values, 0), source, where, f"column `{column}` is empty")
        names = np.array(feature.names, dtype=object)
        return np.asarray(names[values.to_numpy()])
    if not isinstance(feature, Value) or feature.dtype.startswith("float"):
        raise RecipeError(
            f"column `{column}` of {source.name} contains {described(feature)}; a client's name must be text or a "
            "whole number",
            where=where,
        )
    clients = np.empty(len(values), dtype=object)
    clients[:] = [str(value).lower() if isinstance(value, bool) else str(value) for value in values.to_pylist()]
    return clients


def _files_of(source: Source) -> np.ndarray | None:
    if FILE in source.table.column_names:
        raise RecipeError(
            f"`{FILE}` makes each file a client, but {source.name} also has a column of that name; rename the column",
            where="data.client",
        )
    if source.split != "train" and len(source.parts) < 2:
        return None
    if not source.parts:
        raise RecipeError(f"`{FILE}` makes each file a client, but {source.name} is not a file", where="data.client")
    names = np.array([part.client for part in source.parts], dtype=object)
    return np.asarray(names[source.parts_of(np.arange(len(source)))])


def is_text(feature: Any) -> bool:
    """Whether a feature is text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def described(feature: Any) -> str:
    """The name of a feature's type: ``int64``, ``timestamp[s]``, ``Image``, ``List``."""
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _refuse(wrong: pa.ChunkedArray, source: Source, where: str, what: str) -> None:
    found = np.flatnonzero(wrong.to_numpy())
    if len(found):
        raise DataError(
            f"{what} in {len(found)} of {len(source)} rows of {source.name}; the first is {source.place(found[0])}",
            where=where,
        )
