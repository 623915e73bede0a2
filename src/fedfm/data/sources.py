"""Sources of examples: a table as in its file, with a digest of its content and a name for messages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, concatenate_datasets

from fedfm.data.builtins import BUILTINS
from fedfm.data.cache import table_digest
from fedfm.data.memory import SCHEME, read_kept
from fedfm.data.readers.files import FILE_READERS, read_file
from fedfm.data.readers.folders import holds_tables, image_folder_of_split, is_listed
from fedfm.data.readers.hub import read_hub
from fedfm.data.readers.image_folders import names_digest, read_class_folder, read_listed_images
from fedfm.data.readers.references import check_endings, file_clients, is_pattern, named_files
from fedfm.data.readers.repository import files_of_split, table_files
from fedfm.data.readers.request import ReadRequest, RequestedColumn
from fedfm.data.readers.saved import is_saved, read_saved
from fedfm.data.settings import CsvSettings, Reference, shown
from fedfm.errors import DataError, RecipeError
from fedfm.spelling import nearest

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes:
        name: its path.
        client: its name as a client.
        rows: number of its rows.
    """

    name: str
    client: str
    rows: int


@dataclass(frozen=True, eq=False)
class Source:
    """Examples before encoding.

    Attributes:
        table: columns as in the file.
        digest: sha256 (hex) of the content; equal digests mean equal tables.
        name: the file's path or the reference, for messages.
        rows: 0-based row of each example in the file, or in all files one after the other; None if the table has all
            rows.
        split: the split that was read; a part held out from the training examples is also ``train``.
        parts: the files, in the order of their rows; empty if the source is not made of files.
        notes: sentences about files that were left out.
        images: sha256 of the content of each image, bytes [N], set by `fedfm.data.image_files.with_images`.
    """

    table: Dataset
    digest: str
    name: str
    rows: np.ndarray | None = None
    split: Split = "train"
    parts: tuple[SourceFile, ...] = ()
    notes: tuple[str, ...] = ()
    images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.table)

    def select(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The examples at ``indices``, in that order; messages still name the rows of the file."""
        chosen = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.digest.encode() + chosen.tobytes()).hexdigest()
        rows = chosen if self.rows is None else self.rows[chosen]
        images = None if self.images is None else self.images[chosen]
        return replace(self, table=self.table.select(chosen), digest=digest, rows=rows, images=images)

    def row_number(self, index: int) -> int:
        """The 1-based row of example ``index`` in its file; a header line is not counted."""
        row = int(index if self.rows is None else self.rows[index])
        return 1 + row - (self._starts[self.part_of(index)] if self.parts else 0)

    def place(self, index: int) -> str:
        """The row of example ``index`` for messages, with its file if there are several."""
        row = f"row {self.row_number(index)}"
        return f"{row} of {self.file_of(index)}" if len(self.parts) > 1 else row

    def file_of(self, index: int) -> str:
        """The file of example ``index``; the source's name if the source is not made of files."""
        return self.parts[self.part_of(index)].name if self.parts else self.name

    def part_of(self, index: int) -> int:
        """The number of the file of example ``index``."""
        return int(self.parts_of(np.array([index]))[0])

    def parts_of(self, indices: np.ndarray) -> np.ndarray:
        """As `part_of`, for several examples, int64 [N]; returns int64 [N]."""
        rows = indices if self.rows is None else self.rows[indices]
        return np.searchsorted(self._starts, rows, side="right") - 1

    @property
    def _starts(self) -> list[int]:
        return [0, *accumulate(part.rows for part in self.parts[:-1])]


def read_source(
    reference: Reference,
    split: Split,
    *,
    where: str,
    columns: Sequence[RequestedColumn] | None = None,
    csv: CsvSettings | None = None,
    allow_network: bool = False,
) -> Source:
    """Reads the data that a recipe's ``data.train`` or a similar key names.

    Args:
        reference: a file (jsonl, json, csv, tsv, each also .gz; parquet; npz), a folder (tables, images by class, a
            saved data set), a pattern, or a list of files, folders and patterns; ``hf:owner/name`` or
            ``hf:owner/name/config``, each also with ``:split``; ``builtin:NAME``; ``memory:DIGEST`` for
            examples passed from Python.
        split: the part of a hub data set that names no split, a built-in or a folder with splits; files are read whole.
        where: the recipe key of ``reference``, for messages.
        columns: the columns to read and their use; None reads all. Only the training data must name clients.
        csv: format of CSV and TSV files.
        allow_network: whether a hub data set may be downloaded.

    Raises:
        RecipeError: the source does not exist, has an unknown ending, has no examples, or lacks a column.
        DataError: the content is not what the ending says.
        StorageError: the cache cannot be written.
    """
    scheme, _, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if scheme == "builtin":
        source = _read_builtin(name, split, where)
    elif scheme == "hf":
        name, colon, named = name.partition(":")
        part = named if colon else split
        table = read_hub(name, part, where=where, allow_network=allow_network)
        source = Source(table, table_digest(table), f"hf:{name} ({part})")
    elif scheme == SCHEME:
        source = Source(read_kept(name, where=where), name, f"the {split} data given from Python")
    else:
        if columns is not None and split != "train":
            columns = [replace(column, required=False) if column.role == "client" else column for column in columns]
        request = ReadRequest(
            None if columns is None else tuple(columns), csv or CsvSettings(), where[: where.rfind(".") + 1]
        )
        if isinstance(reference, str) and Path(reference).expanduser().is_dir():
            source = _read_folder(Path(reference).expanduser().absolute(), split, request, where)
        else:
            paths, notes = named_files([reference] if isinstance(reference, str) else reference, where=where)
            alone = len(paths) == 1 and not is_pattern(shown(reference))
            source = _read_files(paths, None if alone else shown(reference), request, where)
            source = replace(source, notes=tuple(notes))
    if not len(source):
        raise RecipeError(f"{source.name} is empty: it has no examples", where=where)
    return replace(source, split=split)


def _read_builtin(name: str, split: Split, where: str) -> Source:
    if name not in BUILTINS:
        near = nearest(name, BUILTINS, cutoff=0.4)
        guess = f"did you mean `builtin:{near}`? " if near else ""
        known = ", ".join(f"builtin:{known}" for known in BUILTINS)
        raise RecipeError(f"no built-in data set `builtin:{name}`; {guess}Available: {known}", where=where)
    if split == "validation":
        raise RecipeError(
            f"builtin:{name} has only the splits train and test; give a fraction to hold out, such as 0.1", where=where
        )
    whole = BUILTINS[name]()
    is_test = np.asarray(whole["is_test"])
    table = whole.remove_columns("is_test").select(np.flatnonzero(is_test if split == "test" else ~is_test))
    digest = hashlib.sha256(f"{table_digest(whole)}/{split}".encode()).hexdigest()
    return Source(table, digest, f"builtin:{name} ({split})")


def _read_files(paths: Sequence[Path], name: str | None, request: ReadRequest, where: str) -> Source:
    """The tables in files, one after the other; without a ``name``, the table of a single file with its own name."""
    tables, digests = zip(*(read_file(path, request, where=where) for path in paths), strict=True)
    clients = file_clients(paths)
    parts = tuple(
        SourceFile(str(path), client, len(table)) for path, client, table in zip(paths, clients, tables, strict=True)
    )
    if name is None:
        return Source(tables[0], digests[0], str(paths[0]), parts=parts)
    for path, table in zip(paths, tables, strict=True):
        if table.features != tables[0].features:
            raise DataError(
                f"{path}: has different columns from {paths[0]}: {_described(table)}, not {_described(tables[0])}"
            )
    whole = hashlib.sha256("".join(f"{name}/{digest}/" for name, digest in zip(clients, digests, strict=True)).encode())
    return Source(concatenate_datasets(list(tables)), whole.hexdigest(), f"{name} ({len(paths)} files)", parts=parts)


def _described(table: Dataset) -> str:
    return ", ".join(f"{name} ({getattr(kind, 'dtype', kind)})" for name, kind in table.features.items())


def _read_folder(folder: Path, split: Split, request: ReadRequest, where: str) -> Source:
    """A saved data set, tables (as in a clone of a repository), or images."""
    try:
        return _read_contents(folder, split, request, where)
    except PermissionError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error


def _read_contents(folder: Path, split: Split, request: ReadRequest, where: str) -> Source:
    if is_saved(folder):
        table = read_saved(folder, split, where=where)
        digest = hashlib.sha256(f"{table_digest(table)}/{table.features}".encode()).hexdigest()
        return Source(table, digest, str(folder))
    part = image_folder_of_split(folder, split, where=where)
    if is_listed(part):
        listed = request.renamed("image", "file_name")
        table, notes = read_listed_images(part, lambda path: read_file(path, listed, where=where)[0])
        return Source(table, names_digest(table, part), str(part), notes=notes)
    tables = table_files(folder, FILE_READERS)
    if holds_tables(folder, tables):
        files, left_out = files_of_split(folder, tables, split, where=where)
        check_endings(folder, files, where=where)
        return replace(_read_files(files, str(folder), request, where), notes=left_out)
    table, notes = read_class_folder(part, where=where)
    return Source(table, names_digest(table, part), str(part), notes=notes)
