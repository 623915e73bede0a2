"""Data sets that `datasets` saved to a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from fedfm.data.sources import read_source
from fedfm.errors import DataError, RecipeError

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


def made(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts), "label": [0] * len(texts)}, features=FEATURES)


def test_a_data_set(tmp_path: Path) -> None:
    made("a", "b", "c").select([2, 0]).with_format("numpy").save_to_disk(tmp_path / "x", num_shards=2)
    source = read_source(str(tmp_path / "x"), "train", where="data.train")
    assert source.table["text"][:] == ["c", "a"]
    assert source.table.features == FEATURES
    made("c", "b").save_to_disk(tmp_path / "y")
    assert source.digest != read_source(str(tmp_path / "y"), "train", where="data.train").digest


def test_its_splits(tmp_path: Path) -> None:
    DatasetDict({"train": made("a"), "valid": made("b", "c")}).save_to_disk(tmp_path)
    assert read_source(str(tmp_path), "train", where="data.train").table["text"][:] == ["a"]
    assert read_source(str(tmp_path), "validation", where="data.validation").table["text"][:] == ["b", "c"]
    with pytest.raises(RecipeError, match=r"data\.test: .* has no split test \(test, testing\); it has train, valid"):
        read_source(str(tmp_path), "test", where="data.test")


def test_damage(tmp_path: Path) -> None:
    made("a").save_to_disk(tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        read_source(str(tmp_path), "train", where="data.train")
    file.unlink()
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        read_source(str(tmp_path), "train", where="data.train")
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../secret.arrow"}]}))
    with pytest.raises(DataError, match=r"names \.\./secret\.arrow, which is not a file of this folder"):
        read_source(str(tmp_path), "train", where="data.train")
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        read_source(str(tmp_path), "train", where="data.train")
    (tmp_path / "dataset_dict.json").write_text('{"splits": 5}')
    with pytest.raises(DataError, match=r"dataset_dict\.json: damaged"):
        read_source(str(tmp_path), "train", where="data.train")
