"""Reads lines of text files: encodings, compression, and files whose content is not what their names say."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from fedfm.errors import DataError

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # must come before UTF-16, whose mark is a prefix
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_GZIP = b"\x1f\x8b"
_SIGNATURES = {
    _GZIP: ("a gzip file", "name it so, with .gz at the end"),
    b"PAR1": ("a Parquet file", "name it so, with .parquet at the end"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    b"BZh": ("a bzip2 file", "unpack it"),
    b"\xfd7zXZ": ("an xz file", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "unpack it"),
    b"ARROW1": ("an Arrow file", "save it as Parquet"),
    b"SQLite format 3": ("an SQLite database", "save its table as CSV or Parquet"),
    b"\x80\x04\x95": ("a pickle", "save it as Parquet: pickles can run code, and are never loaded"),
    b"\x80\x05\x95": ("a pickle", "save it as Parquet: pickles can run code, and are never loaded"),
}
"""First bytes → the type of the file, and what to do with it."""

LONGEST_LINE = 1 << 27
"""Maximum number of characters of a line: what is longer is no line of text, and would fill the memory."""


def lines(path: Path, *, encoding: str | None = None, key: str = "") -> Iterator[str]:
    r"""The lines of a text file, with their line ends: ``\n``, ``\r\n`` or ``\r``.

    Args:
        path: of the file; compressed with gzip if it ends in ``.gz``.
        encoding: None for UTF-8, or UTF-16 or UTF-32 if the file has a byte order mark.
        key: the recipe key of the encoding, for messages; may be empty.

    Raises:
        DataError: the file is not text, not in this encoding, or damaged, or has an endless line; with the line.
    """
    number = 0
    try:
        with _opened(path) as file:
            text = io.TextIOWrapper(file, encoding=encoding or _encoding(file, path), newline="")
            for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE + 1), ""), start=1):
                if "\0" in line:
                    raise DataError(
                        f"{path}:{number}: has a NUL byte: the file is not text, is damaged, or has another encoding"
                        + (f" (set {key}, such as utf-16-le)" if key else "")
                    )
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{path}:{number}: has more than {LONGEST_LINE:,} characters; write a row a line")
                yield line
    except UnicodeError as error:
        raise DataError(_undecodable(path, encoding, key, number)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(16)
    packed = path.suffix.lower() == ".gz"
    if packed and not start.startswith(_GZIP):
        raise DataError(f"{path}: its name ends in .gz, but it is not a gzip file; remove .gz from the name")
    for signature, (kind, advice) in _SIGNATURES.items():
        if start.startswith(signature) and not (packed and signature == _GZIP):
            raise DataError(f"{path}: is {kind}, but its name has another ending; {advice}")
    return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")


def _encoding(file: IO[bytes], path: Path) -> str:
    """The encoding by the byte order mark; reads at the start of the file and returns there."""
    start = file.read(4)
    file.seek(0)
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def _undecodable(path: Path, encoding: str | None, key: str, last: int) -> str:
    """Describes why a file cannot be decoded, and suggests an encoding."""
    if encoding is not None:
        return f"{path}:{last + 1}: is not {encoding} from this line on; set {key} to the encoding of the file"
    with _opened(path) as file:
        if _encoding(file, path) not in ("utf-8", "utf-8-sig"):
            return (
                f"{path}:{last + 1}: is not {_encoding(file, path)} from this line on, but its byte order mark says so"
            )
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                guess = "cp1252" if any(0x80 <= byte <= 0x9F for byte in line) else "latin-1"
                advice = f", or set its encoding: {key}={guess} if it is Western European" if key else ""
                return f"{path}:{number}: is not UTF-8 (byte {error.start + 1} of the line); save as UTF-8{advice}"
    return f"{path}: is not UTF-8; save as UTF-8"  # the file has changed while it was read
