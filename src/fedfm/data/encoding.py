"""Rows to model inputs, on disk: encoded a batch at a time, once."""

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
"""Row numbers → columns of model inputs; a row may give none or several."""


def encoded(key: str, rows: int, prepare: Callable[[], Encode], features: Features, *, batch_size: int) -> Dataset:
    """The table kept under ``key``, or a new one, written as it is encoded.

    Args:
        key: from `fedfm.data.cache.cache_key`.
        rows: how many there are.
        prepare: checks and reads what encoding needs; called only when there is something to encode.
        features: the new columns.
        batch_size: rows encoded at once.

    Raises:
        StorageError: the cache folder cannot be written.
        DataError: a tokenizer's native code panicked over a row.
    """

    def build(scratch: Path) -> Dataset:
        with _panics_told():
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
def _panics_told() -> Iterator[None]:
    """Ordering a panic of a tokenizer, which is written in Rust, into an error; it is no Exception.

    Raises:
        DataError: the block panicked.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        raise DataError(f"the model's tokenizer cannot read a text, its own code failed: {error}") from error
