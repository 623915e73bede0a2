"""Folders of images by class."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel
from PIL import Image

from fedfm.data.sources import read_source
from fedfm.errors import RecipeError


def draw(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def test_classes_are_the_subfolders(tmp_path: Path) -> None:
    draw(tmp_path / "dog" / "b.png", 3)
    draw(tmp_path / "dog" / "a.jpg", 2)
    draw(tmp_path / "cat" / "z.PNG", 1)
    (tmp_path / "dog" / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    table = read_source(str(tmp_path), "train", where="data.train").table
    assert table.features["label"] == ClassLabel(names=["cat", "dog"])
    assert [(image.getpixel((0, 0)), label) for image, label in zip(table["image"], table["label"], strict=True)] == [
        (1, 0),
        (2, 1),
        (3, 1),
    ]


def test_names_that_look_like_splits_or_patterns_lose_nothing(tmp_path: Path) -> None:
    """`datasets` takes a class called train, or a file called test_1.png, for a split, and leaves the others out."""
    for name in ("train", "bus", "a[b]*"):
        draw(tmp_path / name / "test_1.png")
        draw(tmp_path / name / "eval_2.png")
    assert len(read_source(str(tmp_path), "train", where="data.train")) == 6


def test_the_digest_follows_content_and_names_but_not_the_place(tmp_path: Path) -> None:
    digests = []
    for folder, file, value in (("x", "1.png", 1), ("y", "1.png", 1), ("z", "1.png", 2), ("w", "2.png", 1)):
        draw(tmp_path / folder / "cat" / file, value)
        digests.append(read_source(str(tmp_path / folder), "train", where="data.train").digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_folders_without_classes_or_images(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no subfolders; images must lie in"):
        read_source(str(tmp_path), "train", where="data.train")
    draw(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(RecipeError, match=r"no images in .*/train; images must lie in .*/CLASS/"):
        read_source(str(tmp_path), "train", where="data.train")
