"""A source: a table of examples as its file has them, with a digest of its content and a name for messages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, concatenate_datasets

from fedfm.data.builtins import BUILTINS
from fedfm.data.cache import cache_key, cached, table_digest
from fedfm.data.memory import SCHEME, read_kept
from fedfm.data.readers.files import FILE_READERS
from fedfm.data.readers.folders import holds_tables, image_folder_of_split, is_listed
from fedfm.data.readers.formats import LFS_POINTER
from fedfm.data.readers.hub import read_hub
from fedfm.data.readers.image_folders import by_ending, names_digest, read_class_folder, read_listed_images
from fedfm.data.readers.repository import files_of_split, table_files
from fedfm.data.readers.saved import is_saved, read_saved
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
        notes: what was left out when it was read, in sentences.
        images: sha256 of the content of each image, bytes [N], once `fedfm.data.image_files.with_images` has read them.
    """

    table: Dataset
    digest: str
    name: str
    rows: np.ndarray | None = None
    split: Split = "train"
    notes: tuple[str, ...] = ()
    images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.table)

    def select(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The examples at ``indices``, in that order; messages go on naming the rows of the file."""
        chosen = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.digest.encode() + chosen.tobytes()).hexdigest()
        rows = chosen if self.rows is None else self.rows[chosen]
        images = None if self.images is None else self.images[chosen]
        return replace(self, table=self.table.select(chosen), digest=digest, rows=rows, images=images)

    def row_number(self, index: int) -> int:
        """The 1-based row of the file that holds example ``index``; a header line is not counted."""
        return 1 + int(index if self.rows is None else self.rows[index])


def read_source(reference: str, split: Split, *, where: str, allow_network: bool = False) -> Source:
    """Reads what a recipe's ``data.train`` and its like name.

    Args:
        reference: a file (jsonl, json, csv, tsv, each also .gz; parquet; npz), a folder (images by class, a saved
            data set, tables), ``hf:owner/name`` or ``hf:owner/name/config``, ``builtin:NAME``, or ``memory:DIGEST`` for
            examples given from Python.
        split: which part a hub set, a built-in or a folder with splits gives; files are what they are.
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
    elif scheme == SCHEME:
        table = read_kept(name, where=where)
        source = Source(table, name, f"the {split} data given from Python")
    else:
        path = Path(reference).expanduser().absolute()
        source = _read_folder(path, split, where) if path.is_dir() else _read_path(path, where)
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
    ending = next((ending for ending in FILE_READERS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise RecipeError(
            f"cannot tell what {path} is from its name; it must end in {', '.join(FILE_READERS)}", where=where
        )
    if path.stat().st_size == 0:
        raise RecipeError(f"{path} is empty: it has no examples", where=where)
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise DataError(f"{path}: is a Git LFS pointer, not the data; run `git lfs pull` where it was cloned")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    key = cache_key(kind="file", digest=digest, ending=ending, version=2)
    return Source(cached(key, lambda scratch: FILE_READERS[ending](path, scratch)), digest, str(path))


def _read_folder(folder: Path, split: Split, where: str) -> Source:
    """A saved data set, tables (as in a clone of a repository), or images."""
    try:
        return _read_what_is_there(folder, split, where)
    except PermissionError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error


def _read_what_is_there(folder: Path, split: Split, where: str) -> Source:
    if is_saved(folder):
        table = read_saved(folder, split, where=where)
        digest = hashlib.sha256(f"{table_digest(table)}/{table.features}".encode()).hexdigest()
        return Source(table, digest, str(folder))
    part = image_folder_of_split(folder, split, where=where)
    if is_listed(part):
        table, notes = read_listed_images(part, lambda path: _read_path(path, where).table)
        return Source(table, names_digest(table, part), str(part), notes=notes)
    tables = table_files(folder, FILE_READERS)
    if holds_tables(folder, tables):
        files, left_out = files_of_split(folder, tables, split, where=where)
        notes = (f"{folder}: left out {by_ending(folder, left_out)}, which no split names",) if left_out else ()
        return replace(_read_tables(folder, files, where), notes=notes)
    table, notes = read_class_folder(part, where=where)
    return Source(table, names_digest(table, part), str(part), notes=notes)


def _read_tables(folder: Path, paths: Sequence[Path], where: str) -> Source:
    """The tables of a folder, one after the other."""
    parts = [_read_path(path, where) for path in paths]
    for part in parts[1:]:
        if part.table.features != parts[0].table.features:
            raise DataError(
                f"{part.name}: has other columns than {parts[0].name}: {_columns(part)}, not {_columns(parts[0])}"
            )
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Source(concatenate_datasets([part.table for part in parts]), digest, str(folder))


def _columns(source: Source) -> str:
    return ", ".join(f"{name} ({getattr(kind, 'dtype', kind)})" for name, kind in source.table.features.items())
