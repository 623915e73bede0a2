"""Data sets of the Hub: read from the local cache without a network; a clear error if they are not in it."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from datasets.packaged_modules.json.json import Json

from fedfm.data.sources import read_source
from fedfm.errors import RecipeError


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache after someone has loaded ``owner/poems``, configuration ``short``."""
    folder = tmp_path / "hub"
    files = {}
    for split, count in (("train", 3), ("test", 2)):
        files[split] = str(tmp_path / f"{split}.jsonl")
        Path(files[split]).write_text("".join(f'{{"text": "{split} {row}"}}\n' for row in range(count)))
    builder = Json(cache_dir=str(tmp_path), dataset_name="poems", config_name="short", hash="0" * 40, data_files=files)
    builder.download_and_prepare()
    prepared = Path(builder.cache_dir)
    info = json.loads((prepared / "dataset_info.json").read_text())
    (prepared / "dataset_info.json").write_text(json.dumps({**info, "config_name": "short"}))
    (folder / "owner___poems" / "short" / "0.0.0").mkdir(parents=True)
    prepared.rename(folder / "owner___poems" / "short" / "0.0.0" / ("0" * 40))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def test_what_was_loaded_before_needs_no_network(hub_cache: Path) -> None:
    train = read_source("hf:owner/poems/short", "train", where="data.train")
    test = read_source("hf:owner/poems/short", "test", where="data.test")
    assert train.table["text"][:] == ["train 0", "train 1", "train 2"]
    assert test.table["text"][:] == ["test 0", "test 1"]
    assert train.digest != test.digest
    assert train.name == "hf:owner/poems/short (train)"


def test_a_reference_may_name_its_split(hub_cache: Path) -> None:
    source = read_source("hf:owner/poems/short:train", "test", where="data.test")
    assert source.table["text"][:] == ["train 0", "train 1", "train 2"]
    assert (source.name, source.split) == ("hf:owner/poems/short (train)", "test")


def test_a_missing_split_names_those_that_there_are(hub_cache: Path) -> None:
    with pytest.raises(RecipeError, match=r"validation.*train.*test"):
        read_source("hf:owner/poems/short", "validation", where="data.validation")


def test_a_missing_configuration_names_those_that_there_are(hub_cache: Path) -> None:
    with pytest.raises(RecipeError, match=r"hf:owner/poems/long: .*'short'"):
        read_source("hf:owner/poems/long", "train", where="data.train")


def test_b10_what_is_not_there_may_not_be_fetched(hub_cache: Path) -> None:
    with pytest.raises(RecipeError, match=r"hf:owner/other: Couldn't find cache.*; set allow_network: true") as caught:
        read_source("hf:owner/other", "train", where="data.train")
    assert caught.value.problems[0].where == "data.train"
    assert "\n" not in caught.value.problems[0].message


def test_with_the_network_allowed_but_absent(hub_cache: Path) -> None:
    with pytest.raises(RecipeError, match=r"hf:owner/other: "):
        read_source("hf:owner/other", "train", where="data.train", allow_network=True)


@pytest.mark.parametrize(
    "reference", ["hf:", "hf:a/b/c/d", "hf:/b", "hf:a/", "hf:a//c", "hf:../x", "hf:a/b:", "hf:a/b:a[:9]"]
)
def test_references_of_another_form(hub_cache: Path, reference: str) -> None:
    with pytest.raises(RecipeError, match="is not of the form hf:owner/name"):
        read_source(reference, "train", where="data.train")


def test_a_folder_of_that_name_is_not_read_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "poems").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"the folder .*/owner/poems exists"):
        read_source("hf:owner/poems", "train", where="data.train", allow_network=True)
