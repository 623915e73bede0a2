from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe

SOUND = "name: mine\nmodel: {path: m}\ntask: {kind: causal-lm}\ndata: {train: a.jsonl, test: b.jsonl}\n"


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SOUND + "local: {learning_rate: 1e-5}\n", encoding="utf-8")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.local.learning_rate) == ("mine", 1e-5)
    assert load_recipe(str(path)) == recipe


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("\ufeff" + SOUND, encoding="utf-8")
    assert load_recipe(path).name == "mine"


def test_a_preset_goes_before_a_file_of_the_same_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick").write_text(SOUND, encoding="utf-8")
    assert load_recipe("quick").name == "quick"
    assert load_recipe("./quick").name == "mine"
    assert load_recipe(Path("quick")).name == "mine"


def test_a_mapping_is_left_as_it_was(values: dict[str, Any]) -> None:
    assert load_recipe(values, ["model.path=other"]).model.path == "other"
    assert values["model"] == {"path": "builtin:tiny-bert"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\na: 2\n", "mine.yaml:2: 1 problem\n  `a` is given twice, first in line 1"),
        ("", "mine.yaml: 1 problem\n  is empty"),
        ("# only a comment\n", "is empty"),
        ("just text\n", "has no keys"),
        ("- a\n- b\n", "has no keys"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value)


def test_problems_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SOUND + "rounds: 3\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == (f"{path}: 1 problem\n  rounds: unknown key — it belongs under `federation` (got 3)")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"no such file: {tmp_path}/demmo.yaml.*did you mean the preset `demo`"):
        load_recipe(tmp_path / "demmo.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="cannot be read: Not a directory"):
        load_recipe(Path(__file__) / "x.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match=r"not UTF-8 text \(byte 6\)"):
        load_recipe(binary)
