"""A source: a table of examples as its file has them, with a digest of its content and a name for messages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset

from fedfm.data.builtins import BUILTINS
from fedfm.data.cache import cache_key, cached, table_digest
from fedfm.data.readers.files import FILE_READERS
from fedfm.data.readers.folders import folder_digest, read_image_folder
from fedfm.data.readers.hub import read_hub
from fedfm.errors import DataError, RecipeError
from fedfm.spelling import nearest

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class Source:
    """Examples before encoding.

    Attributes:
        table: columns as in the file.
        digest: sha256 (hex) of the content; equal digests mean equal tables.
        name: the file's path or the reference, for messages.
        rows: where each example stands in the file, 0-based; None when the table is the whole file.
        split: what it was read as; a part held back from the training examples stays ``train``.
    """

    table: Dataset
    digest: str
    name: str
    rows: np.ndarray | None = None
    split: Split = "train"

    def __len__(self) -> int:
        return len(self.table)

    def select(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The examples at ``indices``, in that order; messages go on naming the rows of the file."""
        chosen = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.digest.encode() + chosen.tobytes()).hexdigest()
        rows = chosen if self.rows is None else self.rows[chosen]
        return replace(self, table=self.table.select(chosen), digest=digest, rows=rows)

    def row_number(self, index: int) -> int:
        """The 1-based row of the file that holds example ``index``; a header line is not counted."""
        return 1 + int(index if self.rows is None else self.rows[index])


def read_source(reference: str, split: Split, *, where: str, allow_network: bool = False) -> Source:
    """Reads what a recipe's ``data.train`` and its like name.

    Args:
        reference: a file (jsonl, json, csv, tsv, each also .gz; parquet; npz), a folder of images by class,
            ``hf:owner/name`` or ``hf:owner/name/config``, or ``builtin:NAME``.
        split: which part a hub set or a built-in gives; files and folders are what they are.
        where: the recipe key that holds ``reference``, for messages.
        allow_network: whether a hub set may be downloaded.

    Raises:
        RecipeError: when there is no such thing, its ending is unknown, or it has no examples.
        DataError: when its content is not what its ending says.
        StorageError: when the cache cannot be written.
    """
    scheme, _, name = reference.partition(":")
    if scheme == "builtin":
        source = _read_builtin(name, split, where)
    elif scheme == "hf":
        table = read_hub(name, split, where=where, allow_network=allow_network)
        source = Source(table, table_digest(table), f"{reference} ({split})")
    else:
        source = _read_path(Path(reference).expanduser().absolute(), where)
    if not len(source):
        raise RecipeError(f"{source.name} is empty: it has no examples", where=where)
    return replace(source, split=split)


def _read_builtin(name: str, split: Split, where: str) -> Source:
    if name not in BUILTINS:
        near = nearest(name, BUILTINS, cutoff=0.4)
        guess = f"did you mean `builtin:{near}`? " if near else ""
        known = ", ".join(f"builtin:{known}" for known in BUILTINS)
        raise RecipeError(f"no built-in data set `builtin:{name}`; {guess}There are: {known}", where=where)
    if split == "validation":
        raise RecipeError(
            f"builtin:{name} has the splits train and test only; hold back a fraction instead, such as 0.1", where=where
        )
    whole = BUILTINS[name]()
    is_test = np.asarray(whole["is_test"])
    table = whole.remove_columns("is_test").select(np.flatnonzero(is_test if split == "test" else ~is_test))
    digest = hashlib.sha256(f"{table_digest(whole)}/{split}".encode()).hexdigest()
    return Source(table, digest, f"builtin:{name} ({split})")


def _read_path(path: Path, where: str) -> Source:
    if not path.exists():
        raise RecipeError(f"no such file or folder: {path}", where=where)
    if path.is_dir():
        return Source(read_image_folder(path, where=where), folder_digest(path), str(path))
    ending = next((ending for ending in FILE_READERS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise RecipeError(
            f"cannot tell what {path} is from its name; it must end in {', '.join(FILE_READERS)}", where=where
        )
    if path.stat().st_size == 0:
        raise RecipeError(f"{path} is empty: it has no examples", where=where)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    key = cache_key(kind="file", digest=digest, ending=ending, version=1)
    return Source(cached(key, lambda scratch: FILE_READERS[ending](path, scratch)), digest, str(path))
