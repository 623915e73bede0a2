from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.errors import RecipeError, StorageError
from fedfm.recipe import load_recipe
from fedfm.recipe.presets import FOLDER, PRESETS, copy_preset, preset_text, preset_title


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_sound_and_says_what_it_shows(name: str) -> None:
    assert load_recipe(name).name == name
    assert preset_text(name).startswith("# ")
    assert 20 < len(preset_title(name)) <= 96


def test_every_file_is_listed() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(PRESETS)


def test_the_demo_is_a_federation_of_unlike_clients_with_a_pretrained_model() -> None:
    recipe = load_recipe("demo")
    assert (recipe.model.path, recipe.data.train, recipe.partition.kind) == (
        "builtin:minilm",
        "builtin:pydoc",
        "dirichlet",
    )
    assert (recipe.tune.kind, recipe.allow_network) == ("lora", False)


def test_copying(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    copy_preset("quick", target)
    assert load_recipe(target) == load_recipe("quick")


def test_copying_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("precious", encoding="utf-8")
    with pytest.raises(RecipeError, match="already exists"):
        copy_preset("quick", target)
    with pytest.raises(RecipeError, match="is a folder"):
        copy_preset("quick", tmp_path)
    assert target.read_text(encoding="utf-8") == "precious"


def test_copying_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no preset is called `quik`.*did you mean `quick`"):
        copy_preset("quik", tmp_path / "mine.yaml")
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        copy_preset("quick", tmp_path / "missing" / "mine.yaml")
    assert list(tmp_path.iterdir()) == []
