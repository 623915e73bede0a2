"""Examples given from Python: kept in the cache, named by their content; errors say what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PIL_Image

from fedfm.data.image_files import images_of, with_images
from fedfm.data.memory import keep
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe

ROWS = {"text": ["a", "b", "c"], "label": [0, 1, 0]}


def read(reference: str) -> Source:
    return read_source(reference, "train", where="data.train")


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame(ROWS, index=[7, 8, 9]),
        Dataset.from_dict(ROWS).with_format("numpy"),
        DatasetDict({"train": Dataset.from_dict(ROWS), "test": Dataset.from_dict({"text": ["x"], "label": [1]})}),
    ],
    ids=["DataFrame", "Dataset", "DatasetDict"],
)
def test_what_is_kept_is_read_again(given: Any) -> None:
    reference = keep(given, "train")
    assert reference == keep(given, "train")
    assert read(reference).table.to_dict() == ROWS
    assert reference != keep(pd.DataFrame(ROWS | {"label": [0, 1, 1]}), "train")


def test_types_that_only_data_frames_or_data_sets_have() -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["pos", "neg"]), 5: [1.5, None]})
    assert read(keep(frame, "train")).table["label"][:] == ["pos", "neg"]
    assert read(keep(frame, "train")).table.column_names == ["text", "label", "5"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    table = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).select([1])
    assert read(keep(table, "train")).table.features == features
    assert read(keep(table, "train")).table["text"][:] == ["b"]


@pytest.mark.parametrize("kind", ["DataFrame", "Dataset"])
def test_images(kind: str) -> None:
    pictures = [PIL_Image.new("RGB", (4, 4), (value, 0, 0)) for value in (1, 2)]
    given = (
        pd.DataFrame({"image": pictures, "label": [0, 1]})
        if kind == "DataFrame"
        else Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
    )
    source = with_images(read(keep(given, "train")), "image")
    assert [np.asarray(file.decode())[0, 0, 0] for file in images_of(source, "image", [0, 1])] == [1, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(3), "a ndarray cannot be used as data: pass a pandas DataFrame or a datasets.Dataset"),
        (Dataset.from_dict(ROWS).to_iterable_dataset(), "IterableDataset.*`Dataset.from_generator` converts it"),
        (DatasetDict({"other": Dataset.from_dict(ROWS)}), "the DatasetDict has no split train; it has other"),
        (pd.DataFrame({"text": ["a", 5, {}]}), "the DataFrame cannot be read as a table: .*column text"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "the DataFrame has several columns called a"),
    ],
    ids=["array", "iterable", "split", "mixed", "names"],
)
def test_b08_what_cannot_be_kept(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep(given, "train")
    recipe = {"name": "x", "model": {"path": "builtin:tiny-bert"}, "task": {"kind": "text-classification"}}
    with pytest.raises(RecipeError, match=rf"data\.train: .*{message}"):
        load_recipe(recipe, data={"train": given})
    with pytest.raises(RecipeError, match=rf"data\.train: .*{message}"):
        Recipe(**recipe, data={"train": given})


def test_every_way_into_a_recipe_gives_the_same_one() -> None:
    """``load_recipe(data=…)``, a mapping, and a recipe's parts."""
    frame = pd.DataFrame(ROWS)
    values = {"name": "x", "model": {"path": "builtin:tiny-bert"}, "task": {"kind": "text-classification"}}
    first = load_recipe(values | {"data": {"label": "label"}}, data={"train": frame, "test": 0.5, "public": frame})
    public = {"data": frame}
    assert first == load_recipe(values | {"data": {"train": frame, "test": 0.5}, "public": public})
    assert first == Recipe(**values, data=DataSettings(train=frame, test=0.5), public=public)
    assert first.data.train == keep(frame, "train")
    with pytest.raises(RecipeError, match=r"data\.training: no such data; available: train, validation, test, public"):
        load_recipe(values, data={"training": frame})


def test_what_the_cache_has_lost_must_be_given_again(own_cache: Path) -> None:
    reference = keep(pd.DataFrame(ROWS), "train")
    shutil.rmtree(own_cache)
    with pytest.raises(
        RecipeError, match=r"is not in the cache of this machine .*fedfm\.run\(…, data=\{\"train\": …\}\)"
    ):
        read(reference)
    with pytest.raises(RecipeError, match="is not a digest of data"):
        read("memory:../../etc/passwd")
