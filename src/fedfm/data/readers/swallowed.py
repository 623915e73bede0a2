"""Rows that a stray quotation mark has made part of a field: a CSV file with two of them is well-formed, and wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MANY = 1000
"""Distinct values of a column that are remembered."""

_LONG = 64
"""Characters of a value after which its column is prose."""

_SHAPES = 3
"""Shapes that the values of an identifier may have, such as 12.5 and 12."""


class _Column:
    """What the values of a column are like: a few categories, identifiers of a few shapes (p17), or prose."""

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
        """Whether values can be told from others; called when all rows have been seen."""
        self._is_category = not self.is_full and 2 * len(self.values) <= self.rows
        self._shapes = set() if self.is_prose or self._is_category else set(map(_shape, self.values))
        return self._is_category or (0 < len(self._shapes) <= _SHAPES and all("0" in shape for shape in self._shapes))

    def holds(self, value: str) -> bool:
        """Whether a value could stand in the column."""
        return value in self.values if self._is_category else _shape(value) in self._shapes


def _shape(value: str) -> str:
    return re.sub(r"\d+", "0", value)


class SwallowedRows:
    """Looks for fields of several lines, each of which reads as a row of the same file.

    A line reads as a row when it has as many fields as the header, and what then stands in columns of categories
    (labels, clients) or of identifiers are values that these columns could hold.
    """

    def __init__(self, delimiter: str, width: int) -> None:
        """For a file with ``width`` columns."""
        self._delimiter, self._width = delimiter, width
        self._columns = [_Column() for _ in range(width)]
        self._open = set(range(width))
        self._candidates: list[tuple[int, list[tuple[int, str]]]] = []

    def watch(self, record: Sequence[str], lines: Sequence[str], row: int) -> None:
        """Takes note of a record.

        Args:
            record: its fields.
            lines: of the file that it was read from.
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
            self._candidates.append((row, []))  # no table writes tabs and line breaks into a field of a TSV file
        elif values := self._beside(lines, broken):
            self._candidates.append((row, values))

    def found(self) -> int | None:
        """The first row that has swallowed others; None where no row has."""
        telling = {place for place, column in enumerate(self._columns) if column.judge()} if self._candidates else set()
        for row, values in self._candidates:
            compared = [self._columns[place].holds(value) for place, value in values if place in telling]
            if all(compared) and (compared or not values):
                return row
        return None

    def _beside(self, lines: Sequence[str], broken: Sequence[int]) -> list[tuple[int, str]]:
        """What stands in the other columns of its lines, were they rows; nothing where one of them cannot be one."""
        values: list[tuple[int, str]] = []
        last = len(lines) - 1
        for number, line in enumerate(lines):
            places = range(self._width)
            if number == 0:  # what comes before the field is the record's own
                places = range(broken[0] + 1, self._width)
            elif number == last:
                places = range(broken[-1])
            if not line.strip():
                continue
            fields = line.rstrip("\r\n").split(self._delimiter)
            if len(fields) != self._width:
                if 0 < number < last:
                    return []
                continue  # another field of the record may hold delimiters
            values += [(place, fields[place][: _LONG + 1]) for place in places if place not in broken]
        return values
