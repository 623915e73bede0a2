"""Detects rows that an unintended quotation mark has made part of a field.

A CSV file with two such marks is well-formed, but its content is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MANY = 1000
"""Maximum number of distinct values of a column that are stored."""

_LONG = 64
"""A column with a value of more characters is prose."""

_SHAPES = 3
"""Maximum number of different shapes of an identifier's values, such as 12.5 and 12."""


class _Column:
    """The type of a column's values: a few categories, identifiers of a few shapes (p17), or prose."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.rows = 0
        self.is_prose = False

    @property
    def is_full(self) -> bool:
        return self.is_prose or len(self.values) >= _MANY

    def add(self, value: str) -> None:
        self.rows += 1
        self.values.add(value)
        self.is_prose = len(value) > _LONG

    def judge(self) -> bool:
        """Whether the column's type tells which values it may have; called after all rows were read."""
        self._is_category = not self.is_full and 2 * len(self.values) <= self.rows
        self._shapes = set() if self.is_prose or self._is_category else set(map(_shape, self.values))
        return self._is_category or (0 < len(self._shapes) <= _SHAPES and all("0" in shape for shape in self._shapes))

    def holds(self, value: str) -> bool:
        """Whether a value could belong to the column."""
        return value in self.values if self._is_category else _shape(value) in self._shapes


def _shape(value: str) -> str:
    return re.sub(r"\d+", "0", value)


class SwallowedRows:
    """Searches for fields of several lines in which each line looks like a row of the same file.

    A line looks like a row if it has as many fields as the header, and its values in columns of categories (labels,
    clients) or identifiers could belong to these columns.
    """

    def __init__(self, delimiter: str, width: int) -> None:
        """For a file with ``width`` columns."""
        self._delimiter, self._width = delimiter, width
        self._columns = [_Column() for _ in range(width)]
        self._open = set(range(width))
        self._candidates: list[tuple[int, list[tuple[int, str]]]] = []

    def watch(self, record: Sequence[str], lines: Sequence[str], row: int) -> None:
        """Registers a record.

        Args:
            record: its fields.
            lines: the lines of the file from which it was read.
            row: its number.
        """
        broken = [place for place, field in enumerate(record) if "\n" in field or "\r" in field] if lines[1:] else []
        for place in tuple(self._open):
            if place not in broken:
                column = self._columns[place]
                column.add(record[place])
                if column.is_full:
                    self._open.discard(place)
        if not broken:
            return
        if self._delimiter == "\t" and any("\t" in record[place] for place in broken):
            self._candidates.append((row, []))  # programs do not write tabs and line breaks into a TSV field
        elif values := self._beside(lines, broken):
            self._candidates.append((row, values))

    def found(self) -> int | None:
        """The first row that contains other rows, or None."""
        telling = {place for place, column in enumerate(self._columns) if column.judge()} if self._candidates else set()
        for row, values in self._candidates:
            compared = [self._columns[place].holds(value) for place, value in values if place in telling]
            if all(compared) and (compared or not values):
                return row
        return None

    def _beside(self, lines: Sequence[str], broken: Sequence[int]) -> list[tuple[int, str]]:
        """The values in the other columns if its lines were rows; empty if one of the lines cannot be a row."""
        values: list[tuple[int, str]] = []
        last = len(lines) - 1
        for number, line in enumerate(lines):
            places = range(self._width)
            if number == 0:  # the part before the field belongs to the record
                places = range(broken[0] + 1, self._width)
            elif number == last:
                places = range(broken[-1])
            if not line.strip():
                continue
            fields = line.rstrip("\r\n").split(self._delimiter)
            if len(fields) != self._width:
                if 0 < number < last:
                    return []
                continue  # another field of the record may contain delimiters
            values += [(place, fields[place][: _LONG + 1]) for place in places if place not in broken]
        return values
