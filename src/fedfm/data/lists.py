"""Columns of lists: words, labels, numbers. In files of text, a list is written as JSON."""

from __future__ import annotations

import json
from typing import Any

from datasets import ClassLabel, LargeList, List, Value

from fedfm.data.columns import column_of, described, is_text
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError


def is_list(feature: Any) -> bool:
    """Whether a feature is a list of single values."""
    return isinstance(feature, List | LargeList) and isinstance(feature.feature, Value | ClassLabel)


def list_column(source: Source, column: str, where: str) -> list[list[str]]:
    """The lists of one column, with their elements as text: numbers as they are written, classes by their names.

    Raises:
        RecipeError: as for `fedfm.data.columns.column_of`; the column does not contain lists.
        DataError: as for `column_of`; an element is missing, or a text is not a JSON list of single values.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    if not (is_text(feature) or is_list(feature)):
        raise RecipeError(f"column `{column}` of {source.name} contains {described(feature)}, not lists", where=where)
    names = feature.feature.names if is_list(feature) and isinstance(feature.feature, ClassLabel) else None
    lists = []
    for row, value in enumerate(values.to_pylist()):
        found = _parsed(value) if isinstance(value, str) else value
        if found is None or not all(_is_single(element) for element in found):
            raise DataError(
                f"column `{column}` of {source.name} has no list of texts or numbers in {source.place(row)}: "
                f"{str(value)[:60]}",
                where=where,
            )
        lists.append([names[element] if names else _text(element) for element in found])
    return lists


def _parsed(text: str) -> list[Any] | None:
    """The list in a JSON text; None if it is none."""
    try:
        found = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _is_single(value: Any) -> bool:
    return isinstance(value, str | int | float) and value == value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
