"""Data passed from Python: stored in the cache under the digest of its content; a recipe names it ``memory:DIGEST``.

So a run with such data is like any other: its recipe is text, it can be resumed, and other processes on this machine
can read the data.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict, Image, IterableDataset
from PIL import Image as PIL_Image

from fedfm.data.cache import cache_folder, cache_key, cached
from fedfm.data.readers.splits import split_among
from fedfm.errors import RecipeError

SCHEME = "memory"


def keep(data: Any, split: str) -> str:
    """Stores examples in the cache.

    Args:
        data: a pandas DataFrame (its index is left out), a `datasets.Dataset`, or a `DatasetDict` with the split.
        split: ``train``, ``validation`` or ``test``.

    Returns:
        The reference that stands for them in a recipe.

    Raises:
        ValueError: the data has another type, lacks the split, or has a column that cannot be stored in a table.
        StorageError: the cache cannot be written.
    """
    table = _table(data, split)
    whole = _Digest()
    schema = table.features.arrow_schema
    with pa.ipc.new_stream(whole, schema) as writer:
        for batch in table.with_format("arrow").iter(1000):
            writer.write_table(batch.cast(schema))
    digest = whole.sum.hexdigest()
    cached(_key(digest), lambda scratch: table)
    return f"{SCHEME}:{digest}"


def read_kept(digest: str, *, where: str) -> Dataset:
    """The examples that `keep` has stored.

    Raises:
        RecipeError: the examples are not in the cache.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise RecipeError(f"`{SCHEME}:{digest}` is not a digest of data that was passed from Python", where=where)

    def missing(scratch: Path) -> Dataset:
        raise RecipeError(
            f"the data was passed from Python, but is not in the cache of this machine ({cache_folder()}); pass it "
            f'again: fedfm.run(…, data={{"{_split(where)}": …}}), or fedfm.resume(…, data=…) for a started run',
            where=where,
        )

    return cached(_key(digest), missing)


def _split(where: str) -> str:
    """The name in `fedfm.run`'s ``data`` for the data of a recipe key."""
    return "public" if where == "public.data" else where.rpartition(".")[2]


def _key(digest: str) -> str:
    return cache_key(kind=SCHEME, digest=digest, version=1)


def _table(data: Any, split: str) -> Dataset:
    if isinstance(data, DatasetDict):
        name = split_among(list(data), split)
        if name is None:
            raise ValueError(f"the DatasetDict has no split {split}; it has {', '.join(map(str, data))}")
        data = data[name]
    if isinstance(data, Dataset):
        return data.with_format(None)
    if isinstance(data, pd.DataFrame):
        return _from_pandas(data)
    remedy = "; `Dataset.from_generator` converts it" if isinstance(data, IterableDataset) else ""
    raise ValueError(
        f"a {type(data).__name__} cannot be used as data: pass a pandas DataFrame or a datasets.Dataset{remedy}"
    )


def _from_pandas(frame: pd.DataFrame) -> Dataset:
    frame = frame.rename(columns=str)
    if frame.columns.has_duplicates:
        twice = ", ".join(frame.columns[frame.columns.duplicated()].unique())
        raise ValueError(f"the DataFrame has several columns called {twice}")
    images = [name for name in frame.columns if any(isinstance(value, PIL_Image.Image) for value in frame[name][:1])]
    categories = {name: frame[name].astype(object) for name in frame.select_dtypes("category").columns}
    plain = frame.assign(**categories).drop(columns=images)
    try:
        table = Dataset.from_pandas(plain, preserve_index=False)
        for name in images:
            encoded = [None if value is None else Image().encode_example(value) for value in frame[name]]
            table = table.add_column(name, encoded, feature=Image())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(f"the DataFrame cannot be read as a table: {' '.join(map(str, error.args))}") from error
    return table


class _Digest(io.RawIOBase):
    """A writable file that keeps only the sha256 of its content."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = hashlib.sha256()

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, content: Any) -> int:
        """Adds bytes to the digest."""
        view = memoryview(content)
        self.sum.update(view)
        return view.nbytes
