"""A source: a table of examples as its file has them, with a digest of its content and a name for messages."""

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
from fedfm.data.readers.files import read_file
from fedfm.data.readers.folders import folder_digest, read_image_folder
from fedfm.data.readers.hub import read_hub
from fedfm.data.readers.references import file_clients, has_tables, is_pattern, named_files
from fedfm.data.readers.request import Column, Request
from fedfm.data.settings import CsvSettings, Reference, shown
from fedfm.errors import DataError, RecipeError
from fedfm.spelling import nearest

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Part:
    """A file of a source.

    Attributes:
        name: its path.
        client: what it is called as a client.
        rows: how many it has.
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
        rows: where each example stands in the file, or in all files one after the other, 0-based; None when the table
            is the whole.
        split: what it was read as; a part held back from the training examples stays ``train``.
        parts: the files, in the order of their rows; empty where it comes from something else.
        notes: what was left out when it was read, in sentences.
    """

    table: Dataset
    digest: str
    name: str
    rows: np.ndarray | None = None
    split: Split = "train"
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def select(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The examples at ``indices``, in that order; messages go on naming the rows of the file."""
        chosen = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.digest.encode() + chosen.tobytes()).hexdigest()
        rows = chosen if self.rows is None else self.rows[chosen]
        return replace(self, table=self.table.select(chosen), digest=digest, rows=rows)

    def row_number(self, index: int) -> int:
        """The 1-based row of its file that holds example ``index``; a header line is not counted."""
        row = int(index if self.rows is None else self.rows[index])
        return 1 + row - (self._starts[self.part_of(index)] if self.parts else 0)

    def place(self, index: int) -> str:
        """Where example ``index`` stands, in words: its row, and its file where there are several."""
        row = f"row {self.row_number(index)}"
        return f"{row} of {self.parts[self.part_of(index)].name}" if len(self.parts) > 1 else row

    def part_of(self, index: int) -> int:
        """The number of the file that holds example ``index``."""
        return int(self.parts_of(np.array([index]))[0])

    def parts_of(self, indices: np.ndarray) -> np.ndarray:
        """As `part_of`, for examples int64 [N]; int64 [N]."""
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
    columns: Sequence[Column] | None = None,
    csv: CsvSettings | None = None,
    allow_network: bool = False,
) -> Source:
    """Reads what a recipe's ``data.train`` and its like name.

    Args:
        reference: a file (jsonl, json, csv, tsv, each also .gz; parquet; npz), a folder of such files of one ending, a
            pattern, or a list of these; a folder of images by class; ``hf:owner/name`` or ``hf:owner/name/config``;
            ``builtin:NAME``.
        split: which part a hub set or a built-in gives; files and folders are what they are.
        where: the recipe key that holds ``reference``, for messages.
        columns: those needed, and what for; None for all that there are. Only the training data must name clients.
        csv: how CSV and TSV files are written.
        allow_network: whether a hub set may be downloaded.

    Raises:
        RecipeError: when there is no such thing, its ending is unknown, or it has no examples or lacks a column.
        DataError: when its content is not what its ending says.
        StorageError: when the cache cannot be written.
    """
    scheme, _, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if scheme == "builtin":
        source = _read_builtin(name, split, where)
    elif scheme == "hf":
        table = read_hub(name, split, where=where, allow_network=allow_network)
        source = Source(table, table_digest(table), f"{reference} ({split})")
    elif isinstance(reference, str) and _is_image_folder(reference):
        path = Path(reference).expanduser().absolute()
        source = Source(read_image_folder(path, where=where), folder_digest(path), str(path))
    else:
        if columns is not None and split != "train":
            columns = [replace(column, required=False) if column.role == "client" else column for column in columns]
        request = Request(
            None if columns is None else tuple(columns), csv or CsvSettings(), where[: where.rfind(".") + 1]
        )
        source = _read_files(reference, request, where)
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


def _is_image_folder(reference: str) -> bool:
    path = Path(reference).expanduser()
    return path.is_dir() and not has_tables(path)


def _read_files(reference: Reference, request: Request, where: str) -> Source:
    """The tables in files, one after the other."""
    paths, notes = named_files([reference] if isinstance(reference, str) else reference, where=where)
    tables, digests = zip(*(read_file(path, request, where=where) for path in paths), strict=True)
    clients = file_clients(paths)
    parts = tuple(
        Part(str(path), client, len(table)) for path, client, table in zip(paths, clients, tables, strict=True)
    )
    if len(paths) == 1 and not is_pattern(shown(reference)):
        return Source(tables[0], digests[0], str(paths[0]), parts=parts, notes=tuple(notes))
    for path, table in zip(paths, tables, strict=True):
        if table.features != tables[0].features:
            raise DataError(
                f"{path}: has other columns than {paths[0]}: {_described(table)}, not {_described(tables[0])}"
            )
    whole = hashlib.sha256("".join(f"{name}/{digest}/" for name, digest in zip(clients, digests, strict=True)).encode())
    name = f"{shown(reference)} ({len(paths)} files)"
    return Source(concatenate_datasets(list(tables)), whole.hexdigest(), name, parts=parts, notes=tuple(notes))


def _described(table: Dataset) -> str:
    return ", ".join(f"{name} ({getattr(kind, 'dtype', kind)})" for name, kind in table.features.items())
