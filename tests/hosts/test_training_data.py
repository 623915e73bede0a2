"""From a recipe's files to its clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedfm.errors import RecipeError
from fedfm.hosts.training_data import read_training
from fedfm.recipe import load_recipe
from tests.small import small_recipe, write_rows


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    folder = tmp_path / "hospitals"
    folder.mkdir()
    for count, name in enumerate(("001", "01", "1"), start=1):
        write_rows(folder / f"{name}.jsonl", 10 * count)
    return folder


def test_each_file_is_a_client(tmp_path: Path, hospitals: Path) -> None:
    changes = [f"data.train={hospitals}", "data.client=file", "federation.clients=null", "data.text=text"]
    training = read_training(load_recipe(small_recipe(tmp_path), changes))
    assert training.federation.sizes == {"001": 10, "01": 20, "1": 30}
    assert training.recipe.federation.clients == 3
    assert training.recipe.data.text == ["text"]
    held_back = read_training(load_recipe(small_recipe(tmp_path), [*changes, "data.test=0.5"]))
    assert set(held_back.federation.sizes) == {"001", "01", "1"}
    assert sum(held_back.federation.sizes.values()) == 30


def test_too_few_files_are_said_as_files(tmp_path: Path, hospitals: Path) -> None:
    changes = [f"data.train={hospitals}/*.jsonl", "data.client=file", "federation.clients=4"]
    with pytest.raises(RecipeError, match=r"federation\.clients: the files of data\.train are 3 clients .*, not 4"):
        read_training(load_recipe(small_recipe(tmp_path), changes))
