"""Writes rows of text to a table on disk, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, Value

from fedfm.errors import DataError

_ROWS_PER_BATCH = 1000


def text_table(names: Sequence[str], rows: Iterable[Sequence[str | None]], scratch: Path, path: Path) -> Dataset:
    """A memory-mapped table of text columns.

    Args:
        names: of the columns.
        rows: the values of each row; None for a missing value.
        scratch: folder for the file of the table.
        path: the file of the rows, for messages.

    Raises:
        DataError: a value is not valid Unicode; with its row and column.
    """
    features = Features({name: Value("string") for name in names})
    schema, iterator, done = features.arrow_schema, iter(rows), 0
    target = scratch / "rows.arrow"
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while batch := list(islice(iterator, _ROWS_PER_BATCH)):
            try:
                columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            except UnicodeEncodeError as error:
                raise DataError(_surrogate(names, batch, done, path)) from error
            writer.write_batch(pa.record_batch(columns, schema=schema))
            done += len(batch)
    return Dataset.from_file(str(target)) if done else Dataset.from_dict({name: [] for name in names}, features)


def _surrogate(names: Sequence[str], batch: Sequence[Sequence[str | None]], before: int, path: Path) -> str:
    for row, values in enumerate(batch, start=before + 1):
        for name, value in zip(names, values, strict=True):
            for character in value or "":
                if "\ud800" <= character <= "\udfff":
                    return (
                        f"{path}: row {row}, column `{name}`: has half of a surrogate pair (\\u{ord(character):04x}), "
                        "which is not a character; the text was cut in the middle of one"
                    )
    return f"{path}: a text after row {before} is not valid Unicode"
