"""Rows that a stray quotation mark has made part of a field: a CSV file with two of them is well-formed, and wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MANY = 1000
"""Distinct values of a column after which no more are remembered: it is no label."""

_LONG = 64
"""Characters of a value after which it is no label or number."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


class SwallowedRows:
    """Looks for fields of several lines, each of which reads as a row of the same file.

    A line reads as a row when it has as many fields as the header, and the fields beside the one in question are values
    that their columns hold elsewhere, or numbers where a column holds nothing but numbers, too many to remember.
    """

    def __init__(self, delimiter: str, width: int) -> None:
        """For a file with ``width`` columns."""
        self._delimiter, self._width = delimiter, width
        self._seen: list[set[str]] = [set() for _ in range(width)]
        self._open = set(range(width))
        self._candidates: list[tuple[int, list[tuple[int, str]]]] = []

    def watch(self, record: Sequence[str], lines: Sequence[str], row: int) -> None:
        """Takes note of a record.

        Args:
            record: its fields.
            lines: of the file that it was read from.
            row: its number.
        """
        broken = [place for place, field in enumerate(record) if "\n" in field or "\r" in field]
        for place in tuple(self._open):
            if place in broken:
                continue
            value, seen = record[place], self._seen[place]
            if len(value) <= _LONG:
                seen.add(value)
            if len(value) > _LONG or len(seen) >= _MANY:
                self._open.discard(place)
        if not broken:
            return
        if self._delimiter == "\t" and any("\t" in record[place] for place in broken):
            self._candidates.append((row, []))  # no table writes tabs and line breaks into a field of a TSV file
        elif (values := self._beside(lines, broken)) is not None:
            self._candidates.append((row, values))

    def found(self) -> int | None:
        """The first row that has swallowed others; None where no row has."""
        for row, values in self._candidates:
            if all(self._holds(place, value) for place, value in values):
                return row
        return None

    def _beside(self, lines: Sequence[str], broken: Sequence[int]) -> list[tuple[int, str]] | None:
        """What stands beside the field in its lines, were they rows; None where one of them is certainly none."""
        values: list[tuple[int, str]] = []
        last = len(lines) - 1
        for number, line in enumerate(lines):
            fields = line.rstrip("\r\n").split(self._delimiter)
            places = range(self._width)
            if number == 0:  # what comes before the field is the record's own
                places = range(broken[0] + 1, self._width)
            elif number == last:
                places = range(broken[-1])
            if not places or not line.strip():
                continue
            if len(fields) != self._width:
                if 0 < number < last:
                    return None
                continue  # another field of the record may hold delimiters
            beside = [(place, fields[place]) for place in places if place not in broken]
            if any(len(value) > _LONG for _, value in beside):
                return None
            values += beside
        return values or None

    def _holds(self, place: int, value: str) -> bool:
        seen = self._seen[place]
        if value in seen:
            return True
        return len(seen) >= _MANY and all(map(_NUMBER.fullmatch, seen)) and _NUMBER.fullmatch(value) is not None
