"""Examples that occur in several splits, or twice in one, are counted and shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fedfm.data.image_files import with_images
from fedfm.data.repeats import Repeats, find_repeats
from fedfm.data.sources import Source, read_source
from fedfm.recipe import load_recipe
from fedfm.server import plan
from tests.small import small_recipe


def counts(sources: dict[str, Source], *columns: str) -> list[tuple[str, str, int, int]]:
    found = find_repeats(sources, columns)
    return [(entry.split, entry.other, entry.examples, entry.total) for entry in found]


def test_by_hand(make_source: Callable[..., Source]) -> None:
    train = make_source(text=["a", "b", "c", "b", "b"])
    test = make_source(text=["x", "b", " c\n", "y"])
    validation = make_source(text=["y", "z"])
    sources = {"train": train, "test": test, "validation": validation}
    assert counts(sources, "text") == [
        ("test", "validation", 1, 4),
        ("test", "train", 2, 4),
        ("train", "train", 2, 5),
    ]
    assert counts({"train": train.select([0, 1]), "test": test.select([0])}, "text") == []


def test_the_first_one_is_named_by_its_row(make_source: Callable[..., Source]) -> None:
    train = make_source(text=["a", "b", "c"]).select([2, 1])
    (found,) = find_repeats({"train": train, "test": make_source(text=["x", "c"])}, ["text"])
    assert found == Repeats("test", "train", 1, 2, ("row 2 of made.jsonl", "row 3 of made.jsonl"))
    assert found.describe() == (
        "1 of 2 test examples also occur in the training data (first: row 2 of made.jsonl is the same as row 3 of "
        "made.jsonl); scores on them say nothing about new examples"
    )


def test_pairs_are_the_same_where_both_texts_are(make_source: Callable[..., Source]) -> None:
    train = make_source(a=["x", "xy", "q"], b=["yz", "z", "r"])
    test = make_source(a=["xy", "q", "q"], b=["yz", "s", "r"])
    assert counts({"train": train, "test": test}, "a", "b") == [("test", "train", 1, 3)]


def test_images_are_compared_by_their_files(tmp_path: Path) -> None:
    for name, value in {"train/cat/1": 1, "train/cat/2": 2, "train/dog/3": 2, "test/cat/4": 1, "test/dog/5": 5}.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), value).save(path)
    sources = {
        split: with_images(read_source(str(tmp_path), split, where=f"data.{split}"), "image")
        for split in ("train", "test")
    }
    shared, within = find_repeats(sources, ["image"])
    assert (shared.split, shared.other, shared.examples) == ("test", "train", 1)
    assert (within.split, within.other, within.examples) == ("train", "train", 1)
    assert shared.first == (str(tmp_path / "test/cat/4.png"), str(tmp_path / "train/cat/1.png"))


@pytest.mark.parametrize("held_back", [True, False])
def test_a_plan_warns_of_them(tmp_path: Path, held_back: bool) -> None:
    recipe = small_recipe(tmp_path)
    recipe["data"]["test"] = 0.5 if held_back else recipe["data"]["train"]
    rows = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(rows + rows if held_back else rows)
    warnings = plan(load_recipe(recipe))["warnings"]
    assert len(warnings) == (3 if held_back else 1)
    assert ("60 of 60" in warnings[0]) is not held_back
    assert "test examples also occur in the training data" in warnings[0]
