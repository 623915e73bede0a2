"""Reads a table from a file, by the ending of its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from fedfm.data.cache import cache_key, cached
from fedfm.data.readers.arrays import read_arrays
from fedfm.data.readers.conll import read_conll
from fedfm.data.readers.formats import LFS_POINTER
from fedfm.data.readers.json_rows import read_json
from fedfm.data.readers.parquet import read_parquet
from fedfm.data.readers.request import ReadRequest
from fedfm.data.readers.separated import read_separated
from fedfm.errors import DataError, RecipeError

Reader = Callable[[Path, Path, ReadRequest], Dataset]
"""A function of the file, a scratch folder for the file of the table, and the request."""


def _read_arrays(path: Path, scratch: Path, request: ReadRequest) -> Dataset:
    return read_arrays(path, scratch)


FILE_READERS: dict[str, Reader] = {
    ".jsonl": read_json,
    ".jsonl.gz": read_json,
    ".json": read_json,
    ".json.gz": read_json,
    ".csv": read_separated,
    ".csv.gz": read_separated,
    ".tsv": read_separated,
    ".tsv.gz": read_separated,
    ".parquet": read_parquet,
    ".conll": read_conll,
    ".conll.gz": read_conll,
    ".npz": _read_arrays,
}
"""Ending in lower case → reader."""

_ADVICE = {
    ".zip": "unpack it",
    ".bz2": "unpack it, or compress it with gzip",
    ".xz": "unpack it, or compress it with gzip",
    ".zst": "unpack it, or compress it with gzip",
    ".txt": "save it as JSON lines, one object with the text per line, or name it .csv if its first line names columns",
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".arrow": "save it as Parquet",
    ".feather": "save it as Parquet",
    ".pkl": "save it as Parquet: pickles can run code, and are never loaded",
    ".pickle": "save it as Parquet: pickles can run code, and are never loaded",
    ".pth": "save it as Parquet or .npz: pickles can run code, and are never loaded",
    ".npy": "save it with its labels, `numpy.savez(FILE, image=…, label=…)`",
    ".pt": "save it as Parquet or .npz: pickles can run code, and are never loaded",
}
"""Unsupported ending → what to do with such a file."""


def ending_of(path: Path) -> str | None:
    """The ending of a file's name, if it is supported; otherwise None."""
    return next((ending for ending in FILE_READERS if path.name.lower().endswith(ending)), None)


def read_file(path: Path, request: ReadRequest, *, where: str) -> tuple[Dataset, str]:
    """The table in a file, and the sha256 (hex) of its content; equal digests mean equal tables.

    Args:
        path: of the file.
        request: what to read.
        where: the recipe key that names the file, for messages.

    Raises:
        RecipeError: the file does not exist, is empty, has an unsupported ending, or lacks a required column.
        DataError: the content is not what the ending says.
        StorageError: the cache cannot be written.
    """
    ending = ending_of(path)
    if not path.exists():
        raise RecipeError(f"no such file or folder: {path}", where=where)
    if ending is None:
        advice = _ADVICE.get(path.suffix.lower())
        raise RecipeError(
            f"the format of {path} is not clear from its name, which must end in {', '.join(FILE_READERS)}"
            + (f"; {advice}" if advice else ""),
            where=where,
        )
    if path.stat().st_size == 0:
        raise RecipeError(f"{path} is empty: it has no examples", where=where)
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` in the repository")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    written = request.csv.model_dump() if ending.startswith((".csv", ".tsv")) else None
    columns = None if request.columns is None else [(column.name, column.role) for column in request.columns]
    key = cache_key(kind="file", digest=digest, ending=ending, columns=columns, csv=written, version=3)
    if written != type(request.csv)().model_dump() and written is not None:
        digest = hashlib.sha256(f"{digest}/{sorted(written.items())}".encode()).hexdigest()
    table = cached(key, lambda scratch: FILE_READERS[ending](path, scratch, request))
    if not len(table):
        raise RecipeError(f"{path} is empty: it has no examples", where=where)
    return table, digest
