"""Folders of images by class, with splits, or with a table of names; files that are not read are counted and named."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel
from PIL import Image

from fedfm.data.image_files import with_images
from fedfm.data.sources import Source, Split, read_source
from fedfm.errors import DataError, FedfmError, RecipeError


def draw(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def read(folder: Path, split: Split = "train") -> Source:
    return read_source(str(folder), split, where=f"data.{split}")


def pixels(source: Source) -> list[tuple[int, int]]:
    return [(row["image"].getpixel((0, 0)), row["label"]) for row in source.table]


def test_classes_are_the_subfolders(tmp_path: Path) -> None:
    draw(tmp_path / "dog" / "b.png", 3)
    draw(tmp_path / "dog" / "a.jpg", 2)
    draw(tmp_path / "cat" / "z.PNG", 1)
    (tmp_path / ".hidden").mkdir()
    source = read(tmp_path)
    assert source.table.features["label"] == ClassLabel(names=["cat", "dog"])
    assert pixels(source) == [(1, 0), (2, 1), (3, 1)]
    assert source.notes == ()


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png", 1)
    draw(tmp_path / "cat" / "more" / "deep" / "2.png", 2)
    draw(tmp_path / "dog" / "batch" / "3.png", 3)
    assert pixels(read(tmp_path)) == [(1, 0), (2, 0), (3, 1)]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere" / "1.png", 1)
    draw(tmp_path / "images" / "dog" / "2.png", 2)
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "dog" / "again").symlink_to(tmp_path / "images" / "dog")
    (tmp_path / "images" / "dog" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    assert pixels(read(tmp_path / "images")) == [(1, 0), (2, 1), (1, 1)]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"no image file .*cat/2\.png"):
        with_images(read(tmp_path), "image")


def test_files_that_are_no_images_are_counted_and_named(tmp_path: Path) -> None:
    """Photos of a telephone were left out without a word."""
    for name in ("cat", "dog"):
        draw(tmp_path / name / "1.png")
    for name in ("cat/a.heic", "cat/b.HEIC", "dog/d.pdf", "dog/v.svg", "dog/notes", "labels.csv"):
        (tmp_path / name).write_text("x")
    (note,) = read(tmp_path).notes
    assert note == (
        f"{tmp_path}: left out 6 files: 2 .heic (cat/a.heic, …; convert to JPEG or PNG), 1 .csv (labels.csv), "
        "1 .pdf (dog/d.pdf; convert to JPEG or PNG), 1 without an ending (dog/notes), "
        "1 .svg (dog/v.svg; convert to JPEG or PNG)"
    )


def test_what_operating_systems_leave_is_no_data(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        draw(tmp_path / name / "1.png")
    for name in (".DS_Store", "__MACOSX/cat/._1.png", "cat/._1.png", "cat/Thumbs.db", "dog/desktop.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    source = read(tmp_path)
    assert (len(source), source.notes) == (2, ())


def test_names_that_look_like_splits_or_patterns_lose_nothing(tmp_path: Path) -> None:
    """`datasets` takes a class called train, or a file called test_1.png, for a split, and leaves the others out."""
    for name in ("train", "bus", "a[b]*"):
        draw(tmp_path / name / "test_1.png")
        draw(tmp_path / name / "eval_2.png")
    assert len(read(tmp_path)) == 6


def test_a_subfolder_a_split(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "cat" / "1.png", 1)
    draw(tmp_path / "train" / "dog" / "1.png", 2)
    draw(tmp_path / "VAL" / "dog" / "1.png", 3)
    assert pixels(read(tmp_path)) == [(1, 0), (2, 1)]
    assert pixels(read(tmp_path, "validation")) == [(3, 0)]
    with pytest.raises(RecipeError, match=r"data\.test: .* has no test/, testing/; it has VAL, train"):
        read(tmp_path, "test")


def test_a_table_that_names_the_images(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    draw(tmp_path / "deep" / "b.png", 2)
    draw(tmp_path / "c.png", 3)
    (tmp_path / "metadata.csv").write_text("file_name,kind,ward\ndeep/b.png,dog,x\na.png,cat,y\n")
    source = read(tmp_path)
    assert [(row["image"].getpixel((0, 0)), row["kind"], row["ward"]) for row in source.table] == [
        (2, "dog", "x"),
        (1, "cat", "y"),
    ]
    assert source.notes == (f"{tmp_path}: left out 1 file: 1 .png (c.png), which metadata.csv does not list",)
    (tmp_path / "metadata.csv").write_text("name\na.png\n")
    with pytest.raises(DataError, match=r"metadata\.csv: no column `file_name`.*columns: name"):
        read(tmp_path)


def test_the_digest_follows_content_and_names_but_not_the_place(tmp_path: Path) -> None:
    digests = []
    for folder, file, value in (("x", "1.png", 1), ("y", "1.png", 1), ("z", "1.png", 2), ("w", "2.png", 1)):
        draw(tmp_path / folder / "cat" / file, value)
        digests.append(with_images(read(tmp_path / folder), "image").digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ([], RecipeError, r"has no subfolders; images must be in .*/CLASS/$"),
        (
            ["1.png", "list.csv"],
            RecipeError,
            r"has no subfolders; .*, or give the path of the table that lists them \(list\.csv\)",
        ),
        (["cat/1.heic", "dog/1.png"], DataError, r"/cat: no images, but .* is a class: it contains 1 file: 1 \.heic"),
        (["train/1.png", "empty/"], DataError, r"/empty: no images, but each subfolder of .* is a class$"),
    ],
)
def test_folders_without_classes_or_images(
    tmp_path: Path, files: list[str], kind: type[FedfmError], message: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("x")
    with pytest.raises(kind, match=message):
        read(tmp_path)
