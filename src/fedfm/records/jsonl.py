"""JSON that every reader accepts (no NaN), and files with one JSON object a line."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedfm.errors import DataError, StorageError
from fedfm.printable import in_json

Record = dict[str, Any]


def dumps(value: object, *, indent: int | None = None) -> str:
    """Strict JSON text: NaN and infinities become null, numpy scalars become numbers, keys keep their order.

    Characters that are unsafe to show are escaped, so that a file can be looked at; it is read as the same value.

    Raises:
        TypeError: something in ``value`` is not JSON.
    """
    try:  # nearly everything is plain already
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError):
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return in_json(text)


def line(record: Mapping[str, object]) -> bytes:
    """One record as one line of UTF-8, newline included."""
    return (dumps(record) + "\n").encode()


def read(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it is not JSON; names the file.
        StorageError: it cannot be read, or there is none.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def records(path: Path) -> Iterator[Record]:
    r"""The records of a JSONL file in order; none when there is no such file.

    A last line without its newline is one that a killed process was writing: it is left out.

    Raises:
        DataError: another line is not a JSON object; names file and line.
        StorageError: the file exists and cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    with file:
        for number, text in enumerate(file, start=1):
            if text.endswith(b"\n"):
                yield _parse(text, path, number)


def _parse(text: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}:{number}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}")
    return record


def _plain(value: object) -> object:
    """The value in JSON's own types; what is not a container or a number is left to the encoder."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return value
