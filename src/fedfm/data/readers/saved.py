"""Reads data sets that `save_to_disk` has written: a `Dataset`, or a `DatasetDict` with its splits."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from fedfm.data.cache import quiet
from fedfm.data.readers.splits import SPLITS, split_among
from fedfm.errors import DataError, RecipeError

_STATE, _INFO, _DICT = "state.json", "dataset_info.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (folder / _DICT).is_file() or ((folder / _STATE).is_file() and (folder / _INFO).is_file())


def read_saved(folder: Path, split: str, *, where: str) -> Dataset:
    """A saved `Dataset`, or one split of a saved `DatasetDict`; the format is Arrow and JSON, without pickles.

    Raises:
        RecipeError: the data set has no such split.
        DataError: one of its files is missing or damaged.
    """
    if not (folder / _DICT).is_file():
        return _read(folder)
    try:
        names = json.loads((folder / _DICT).read_text(encoding="utf-8"))["splits"]
        parts = {str(name): folder / str(name) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _DICT}: damaged: {error}") from error
    chosen = split_among(list(parts), split)
    if chosen is None:
        raise RecipeError(
            f"{folder} has no split {split} ({', '.join(SPLITS[split])}); it has {', '.join(parts)}", where=where
        )
    return _read(parts[chosen])


def _read(folder: Path) -> Dataset:
    try:
        files = json.loads((folder / _STATE).read_text(encoding="utf-8"))["_data_files"]
        for name in [entry["filename"] for entry in files]:
            if Path(name).name != name:
                raise DataError(f"{folder / _STATE}: names {name}, which is not a file of this folder")
        with quiet():
            return Dataset.load_from_disk(str(folder)).with_format(None)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder}: cannot be read as a saved data set: {error}") from error
