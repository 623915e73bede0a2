"""Tables in files: JSON lines, CSV, TSV, Parquet, NumPy archives."""

from __future__ import annotations

import errno
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError

from fedfm.data.readers.arrays import read_arrays
from fedfm.errors import DataError

_FAILURES = (DatasetGenerationError, pa.ArrowInvalid, UnicodeDecodeError, ValueError, StopIteration)


def read_json(path: Path, scratch: Path) -> Dataset:
    """Reads one JSON object a line (or one list of objects).

    Raises:
        DataError: with file and line, when a line is no JSON object.
    """
    if not _check_lines(path):
        return _no_rows()
    try:
        return Dataset.from_json(str(path), cache_dir=str(scratch))
    except _FAILURES as error:
        raise DataError(_json_fault(path) or f"{path}: cannot be read as JSON lines: {_reason(error)}") from error


def read_csv(path: Path, scratch: Path) -> Dataset:
    """Reads comma-separated values with a header line; text such as ``NA`` stays text.

    Raises:
        DataError: with the line where the number of fields changes, where known.
    """
    return _read_separated(path, scratch, ",")


def read_tsv(path: Path, scratch: Path) -> Dataset:
    """Reads tab-separated values with a header line.

    Raises:
        DataError: as for CSV, and when a stray quotation mark swallows lines.
    """
    return _read_separated(path, scratch, "\t")


def read_parquet(path: Path, scratch: Path) -> Dataset:
    """Reads an Apache Parquet file.

    Raises:
        DataError: when it is damaged or something else.
    """
    try:
        return Dataset.from_parquet(str(path), cache_dir=str(scratch))
    except (*_FAILURES, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {_reason(error)}") from error


def _read_separated(path: Path, scratch: Path, separator: str) -> Dataset:
    if _check_lines(path) < 2:  # no line, or only the header
        return _no_rows()
    try:
        table = Dataset.from_csv(str(path), cache_dir=str(scratch), sep=separator, keep_default_na=False)
    except _FAILURES as error:
        reason = _reason(error)
        line = re.search(r"in line (\d+)", reason)
        raise DataError(f"{path}{f':{line[1]}' if line else ''}: malformed: {reason}") from error
    if "__index_level_0__" in table.column_names:  # pandas took the surplus field for an index and shifted the rest
        raise DataError(f"{path}: malformed: the rows have more fields than the header line")
    if separator == "\t":
        _refuse_swallowed_lines(table, path)
    return table


def _refuse_swallowed_lines(table: Dataset, path: Path) -> None:
    """A field of a TSV file with both a tab and a line break is a row that an opening quote has swallowed."""
    for row, values in enumerate(table, start=1):
        if any(isinstance(value, str) and "\t" in value and "\n" in value for value in values.values()):
            raise DataError(
                f"{path}: row {row} opens a quotation mark that swallows the lines after it; write a mark inside a "
                'field twice ("") and the whole field in quotation marks'
            )


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        yield from file


def _check_lines(path: Path) -> int:
    """The number of lines that are not blank; refuses what no text file holds."""
    filled = 0
    try:
        for number, line in enumerate(_lines(path), start=1):
            if b"\0" in line:
                raise DataError(f"{path}:{number}: has a NUL byte: not a text file, or damaged")
            line.decode()
            filled += not line.isspace()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: is not UTF-8 (byte {error.start + 1} of the line); save as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    return filled


def _json_fault(path: Path) -> str | None:
    """The first line that is no JSON object, described; None when each line is one."""
    for number, line in enumerate(_lines(path), start=1):
        if line.isspace():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            return f"{path}:{number}: not JSON: {error.msg} at column {error.colno}"
        if not isinstance(value, dict):
            return f"{path}:{number}: a JSON {type(value).__name__}, not an object with one value a column"
    return None


def _reason(error: BaseException) -> str:
    """The first line of the error at the root; a full disk is the cache's trouble, not the file's, and passes."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise error
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _no_rows() -> Dataset:
    return Dataset.from_dict({}, features=Features({}))


FILE_READERS: dict[str, Callable[[Path, Path], Dataset]] = {
    ".jsonl": read_json,
    ".jsonl.gz": read_json,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_tsv,
    ".tsv.gz": read_tsv,
    ".parquet": read_parquet,
    ".npz": read_arrays,
}
"""By ending: a function of the file and a scratch folder for `datasets`' own files."""
