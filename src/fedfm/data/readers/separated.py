"""Reads CSV and TSV files: every row and every character as in the file, or an error that names the row."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets import Dataset

from fedfm.data.readers.request import ReadRequest
from fedfm.data.readers.rows import text_table
from fedfm.data.readers.swallowed import SwallowedRows
from fedfm.data.readers.text_files import LONGEST_LINE, lines
from fedfm.errors import DataError

_LONGEST_FIELD = LONGEST_LINE
"""Maximum number of characters of a field; a longer field is an unclosed quotation mark."""

_DELIMITERS = {",": "','", ";": "';'", "\t": '"\\t"', "|": "'|'"}
"""Common delimiter → its form in a recipe."""


def read_separated(path: Path, scratch: Path, request: ReadRequest) -> Dataset:
    """Reads a CSV or TSV file with a header line; all values are text, and only a blank field is a missing value.

    Raises:
        RecipeError: a required column is missing; suggests the delimiter with which it would be found.
        DataError: the number of fields of a row and the header differ, or a quotation mark is ambiguous; with the row.
    """
    return _SeparatedFile(path, request).read(scratch)


class _SeparatedFile:
    """The state of reading one file.

    Attributes:
        taken: the lines of the current record.
        line: number of lines read so far.
        row: number of the current record; 0 for the header.
    """

    def __init__(self, path: Path, request: ReadRequest) -> None:
        self.path, self.request, self.dialect = path, request, request.csv
        tab = path.name.lower().removesuffix(".gz").endswith(".tsv")
        self.delimiter = self.dialect.delimiter or ("\t" if tab else ",")
        self.taken: list[str] = []
        self.line, self.row = 0, -1

    def read(self, scratch: Path) -> Dataset:
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            records = self._records()
            header = next(records, [])
            if not header:
                return text_table([], [], scratch, self.path)
            columns = self.request.present(header, self.path, self._hint(header, records))
            names = [column.name for column in columns]
            places = [header.index(name) for name in names]
            return text_table(names, self._rows(records, len(header), places), scratch, self.path)
        finally:
            csv.field_size_limit(limit)

    def _rows(self, records: Iterator[list[str]], width: int, places: Sequence[int]) -> Iterator[list[str]]:
        swallowed = SwallowedRows(self.delimiter, width)
        for record in records:
            if len(record) != width:
                raise DataError(f"{self._place()} {self._ragged(record, width)}")
            if self.dialect.quotechar is not None:
                swallowed.watch(record, self.taken, self.row)
            yield [record[place] for place in places]
        if (row := swallowed.found()) is not None:
            raise DataError(
                f"{self.path}: row {row} opens a quotation mark, and the lines after it, which look like rows, become "
                f"part of a field; {self._quoting_advice()}"
            )

    def _records(self) -> Iterator[list[str]]:
        """Header and rows, without blank lines; ``taken`` contains the lines of the last record."""
        tape = self._tape()
        first = next(tape, "")
        if sign := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):
            if self.dialect.delimiter is None:
                self.delimiter = sign[1]
            self.taken.clear()
            first = next(tape, "")
        reader = csv.reader(
            _chained(first, tape),
            delimiter=self.delimiter,
            quotechar=self.dialect.quotechar,
            escapechar=self.dialect.escapechar,
            quoting=csv.QUOTE_NONE if self.dialect.quotechar is None else csv.QUOTE_MINIMAL,
            strict=True,
        )
        width = 0
        while True:
            try:
                record = next(reader, None)
            except csv.Error as error:
                self.row += 1
                raise DataError(f"{self._place()} {self._fault(str(error))}") from error
            if record is None:
                return
            if record and not (width > 1 and len(record) == 1 and record[0].isspace()):
                self.row += 1
                yield record
                width = width or len(record)
            self.taken.clear()

    def _tape(self) -> Iterator[str]:
        for line in lines(self.path, encoding=self.dialect.encoding, key=f"{self.request.group}csv.encoding"):
            self.line += 1
            self.taken.append(line)
            yield line

    def _place(self) -> str:
        """File, line and row of the last record."""
        first = self.line - len(self.taken) + 1
        return f"{self.path}:{first}: " + (f"row {self.row}" if self.row else "the header")

    def _ragged(self, record: Sequence[str], width: int) -> str:
        fields = f"has {len(record)} field{'s' * (len(record) != 1)}, the header has {width}; "
        if len(record) > width and not any(field.strip() for field in record[width:]):
            return fields + "end the header with as many delimiters as the rows"
        written = _DELIMITERS.get(self.delimiter, repr(self.delimiter))
        return fields + f"put a field that contains the delimiter {written}, or a line break, in quotation marks"

    def _fault(self, reason: str) -> str:
        """Describes an error of the csv module."""
        if "unexpected end" in reason or "field limit" in reason:
            return f"opens a quotation mark that is never closed; {self._quoting_advice()}"
        advice = "" if self.row else self._other_delimiter()
        return f"has text after a closing quotation mark; {advice or self._quoting_advice()}"

    def _quoting_advice(self) -> str:
        key = f"{self.request.group}csv"
        mark = self.dialect.quotechar or ""
        if self.dialect.escapechar is None and any(f"\\{mark}" in line for line in self.taken):
            return f"if a backslash escapes quotation marks, set {key}.escapechar: '\\'"
        return (
            f"double a mark inside a field ({mark}{mark}) and put the whole field in quotation marks; if quotation "
            f"marks are ordinary text in this file, set {key}.quotechar: null"
        )

    @property
    def _needed(self) -> set[str]:
        return {column.name for column in self.request.columns or () if column.required}

    def _other_delimiter(self) -> str:
        """Suggests another delimiter, if the header then has all required columns; otherwise empty."""
        for delimiter, written in _DELIMITERS.items():
            names = {name.strip(' "\r\n') for name in self.taken[0].split(delimiter)}
            if delimiter != self.delimiter and self._needed and self._needed <= names:
                key = f"{self.request.group}csv.delimiter"
                return f"the header has all required columns with another delimiter: set {key}: {written}"
        return ""

    def _hint(self, header: Sequence[str], records: Iterator[list[str]]) -> str:
        """A possible reason for a missing column; empty if no column is missing."""
        if self._needed <= set(header):
            return ""
        if proposal := self._other_delimiter():
            return proposal
        if self._needed <= set(next(records, [])):
            return "the next line has all required columns: remove the lines before the header"
        return "the first line must name the columns"


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest
