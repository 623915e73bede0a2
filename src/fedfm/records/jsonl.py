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
from fedfm.records.shapes import Shape

Record = dict[str, Any]


def dumps(value: object, *, indent: int | None = None) -> str:
    """Strict JSON text: NaN and infinities become null, numpy scalars become numbers, keys keep their order.

    Characters that are unsafe to show are escaped, so that a file can be displayed; the parsed value is the same.

    Raises:
        TypeError: something in ``value`` is not JSON.
    """
    try:  # nearly all values are plain already
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError):
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return in_json(text)


def line(record: Mapping[str, object]) -> bytes:
    """One record as one line of UTF-8, newline included."""
    return (dumps(record) + "\n").encode()


def read(path: Path, shape: Shape[Any] | None = None) -> Any:
    """The content of a JSON file.

    Args:
        path: of the file.
        shape: what it must look like.

    Raises:
        DataError: it is not JSON, or has another shape; names the file.
        StorageError: the file is missing or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    value = _parsed(content, str(path))
    if shape is not None and (fault := shape.fault(value)):
        raise DataError(f"{path} is damaged: {fault}")
    return value


def records(path: Path, shape: Shape[Any] | None = None) -> Iterator[Record]:
    r"""The records of a JSONL file in order; no records where the file is missing.

    A last line without a newline was being written when the process was killed; it is left out.

    Args:
        path: of the file.
        shape: what each record must look like.

    Raises:
        DataError: another line is not a JSON object, or of another shape; names file and line.
        StorageError: the file exists and cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.endswith(b"\n"):
                    yield _record(text, f"{path}:{number}", shape)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _record(text: bytes, where: str, shape: Shape[Any] | None) -> Record:
    record = _parsed(text, where)
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    if shape is not None and (fault := shape.fault(record)):
        raise DataError(f"{where}: {fault}")
    return record


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    except RecursionError as error:
        raise DataError(f"{where}: not JSON that can be read: nested too deeply") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


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
