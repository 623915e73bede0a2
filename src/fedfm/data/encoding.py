"""Encodes rows as model inputs, in batches, and stores them on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features

from fedfm.data.cache import cached
from fedfm.errors import DataError

Encode = Callable[[list[int]], dict[str, Any]]
"""Row numbers → columns of model inputs; the number of inputs may differ from the number of rows."""


def encoded(key: str, rows: int, prepare: Callable[[], Encode], features: Features, *, batch_size: int) -> Dataset:
    """The table stored under ``key``; it is encoded first if it is missing.

    Args:
        key: from `fedfm.data.cache.cache_key`.
        rows: number of rows.
        prepare: reads and checks what the encoding needs; called only if the table is missing.
        features: the columns of the table.
        batch_size: rows that are encoded at once.

    Raises:
        StorageError: the cache folder cannot be written.
        DataError: the native code of a tokenizer has panicked.
    """

    def build(scratch: Path) -> Dataset:
        with _panics_as_errors():
            return Dataset.from_dict({"row": np.arange(rows)}).map(
                prepare(),
                input_columns="row",
                batched=True,
                batch_size=batch_size,
                remove_columns="row",
                features=features,
                cache_file_name=str(scratch / "encoded.arrow"),
                new_fingerprint=key[:32],
            )

    return cached(key, build)


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Turns a panic of a tokenizer's Rust code, which is not an `Exception`, into an error.

    Raises:
        DataError: the block has panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise DataError(f"the model's tokenizer failed on a text, with an error in its own code: {error}") from error
