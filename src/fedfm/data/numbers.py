"""Numbers to predict: a column of numbers, or of lists of as many numbers each."""

from __future__ import annotations

import math

import numpy as np
from datasets import Value

from fedfm.data.columns import column_of, described, is_text
from fedfm.data.lists import is_list, list_column
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError


def number_column(source: Source, column: str, *, where: str = "data.label") -> np.ndarray:
    """The numbers of each example, float64 [N, T]; T is 1 for a column of numbers.

    Raises:
        RecipeError: the column is missing or has another type.
        DataError: a value is missing, is not a finite number, or the lists have different lengths; with the row.
    """
    values = column_of(source, column, where)
    feature = source.table.features[column]
    kinds = ("int", "uint", "float", "decimal")
    if is_list(feature) or (is_text(feature) and str(values[0].as_py()).lstrip().startswith("[")):
        rows = list_column(source, column, where)
    elif is_text(feature) or (isinstance(feature, Value) and feature.dtype.startswith(kinds)):
        rows = [[str(value)] for value in values.to_pylist()]
    else:
        raise RecipeError(f"column `{column}` of {source.name} contains {described(feature)}, not numbers", where=where)
    width = len(rows[0])
    numbers = np.empty((len(rows), width))
    for row, written in enumerate(rows):
        if len(written) != width or not width:
            raise DataError(
                f"column `{column}` of {source.name} has {len(written)} numbers in {source.place(row)}, and {width} in "
                f"{source.place(0)}: each example needs the same number of them, at least one",
                where=where,
            )
        numbers[row] = [_number(text, source, column, row, where) for text in written]
    return numbers


def _number(text: str, source: Source, column: str, row: int, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"column `{column}` of {source.name} has {text[:40]!r} in {source.place(row)}, not a finite number",
            where=where,
        )
    return number
