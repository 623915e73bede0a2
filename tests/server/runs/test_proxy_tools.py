"""A proxy is built into a new folder; problems of writing are found before anything is fitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.errors import RecipeError, StorageError
from fedfm.recipe import Recipe, load_recipe
from fedfm.server.runs import proxy_tools
from fedfm.server.runs.proxy_tools import build_proxy
from tests.small import small_recipe

BARE = {"kind": "fedpft", "keep_layers": [0], "closed_form": False, "distill": None, "interval": None, "probe": 0}


def recipe_of(folder: Path) -> Recipe:
    return load_recipe({**small_recipe(folder), "proxy": BARE})


def test_a_proxy_is_built_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "proxy"
    assert build_proxy(recipe_of(tmp_path), folder)["path"] == str(folder)
    assert {"config.json", "model.safetensors", "proxy.json"} <= {file.name for file in folder.iterdir()}
    assert [file.name for file in folder.parent.iterdir()] == ["proxy"]


def test_what_cannot_be_written_is_refused_before_anything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_tools, "build_experiment", lambda recipe: pytest.fail("the fitting began"))
    recipe = recipe_of(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path, tmp_path / "train.jsonl", tmp_path / "gone"):
        with pytest.raises(RecipeError, match="exists already; name a new folder"):
            build_proxy(recipe, folder)
    for folder in (tmp_path / "train.jsonl" / "proxy", tmp_path / ("long" * 80)):
        with pytest.raises(StorageError, match="cannot write"):
            build_proxy(recipe, folder)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gone", "test.jsonl", "train.jsonl"]
