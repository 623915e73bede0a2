"""Images of a column in every supported form; all unusable ones are named together, by file or row."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedfm.data.image_files import ImageFile, images_of, with_images
from fedfm.data.images import encode_images
from fedfm.data.sources import Source, read_source
from fedfm.errors import DataError, RecipeError
from tests.data.test_images import vit


def picture(value: int = 7, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, value, value)).save(buffer, kind, **settings)
    return buffer.getvalue()


def values(source: Source) -> list[int]:
    return [file.decode().convert("L").getpixel((0, 0)) for file in images_of(source, "image", range(len(source)))]


def read(path: Path) -> Source:
    return with_images(read_source(str(path), "train", where="data.train"), "image")


def test_paths_start_at_the_file_that_names_them_or_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data/a.png", "work/b.png", "c.png", "work/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "data/a.png").write_bytes(picture(1))
    (tmp_path / "work/a.png").write_bytes(picture(9))
    (tmp_path / "work/b.png").write_bytes(picture(2))
    (tmp_path / "c.png").write_bytes(picture(3))
    (tmp_path / "data" / "x.csv").write_text(f"image,label\na.png,1\nb.png,0\n{tmp_path}/c.png,1\n")
    monkeypatch.chdir(tmp_path / "work")
    assert values(read(tmp_path / "data" / "x.csv")) == [1, 2, 3]


def test_base64_text(tmp_path: Path) -> None:
    texts = [base64.b64encode(picture(value)).decode() for value in (1, 2)]
    rows = [{"image": texts[0]}, {"image": f"data:image/png;base64,{texts[1]}"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert values(read(tmp_path / "x.jsonl")) == [1, 2]


@pytest.mark.parametrize("form", ["bytes", "struct", "image"])
def test_bytes_in_parquet(tmp_path: Path, form: str) -> None:
    """pandas writes bytes, or a struct; `datasets` writes its own image type."""
    contents = [picture(1), picture(2)]
    if form == "bytes":
        pd.DataFrame({"image": contents}).to_parquet(tmp_path / "x.parquet")
    elif form == "struct":
        pd.DataFrame({"image": [{"bytes": content, "path": "a.png"} for content in contents]}).to_parquet(
            tmp_path / "x.parquet"
        )
    else:
        column = datasets.Features({"image": datasets.Image()})
        images = [{"bytes": content, "path": None} for content in contents]
        datasets.Dataset.from_dict({"image": images}, features=column).to_parquet(tmp_path / "x.parquet")
    assert values(read(tmp_path / "x.parquet")) == [1, 2]


def test_the_digest_follows_the_images_that_a_table_names(tmp_path: Path) -> None:
    """An image that has changed was taken from the cache."""
    (tmp_path / "x.csv").write_text("image\na.png\n")
    (tmp_path / "a.png").write_bytes(picture(1))
    before = read(tmp_path / "x.csv")
    (tmp_path / "a.png").write_bytes(picture(2))
    after = read(tmp_path / "x.csv")
    assert before.digest != after.digest
    assert encode_images(after, "image", vit(do_normalize=False)).take([0])[0]["pixel_values"].max() == 2


def test_all_images_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "x.csv").write_text("image\nno.png\na.png\nhttps://example.org/b.png\nnot:base64\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "x.csv")
    first, *rest = str(caught.value).splitlines()
    assert first == f"{tmp_path}/x.csv: 3 images cannot be used"
    assert f"x.csv, row 1: no image file no.png in {tmp_path} or {Path.cwd()}" in rest[0]
    assert "row 3: the image is an address, https://example.org/b.png; download it" in rest[1]
    assert "row 4: no image file not:base64" in rest[2]


DAMAGED = {
    "empty": (b"", "is an empty file"),
    "html": (b"\n<HTML>404 not found</html>", "is an HTML page"),
    "doctype": (b"<!DOCTYPE html>", "is an HTML page"),
    "pdf": (b"%PDF-1.7", "is a PDF document"),
    "svg": (b"<svg/>", "is an SVG drawing"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "is a PostScript file"),
    "heic": (b"\0\0\0\x18ftypheic", "is a HEIC image"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    "truncated": (picture(kind="JPEG")[:-9], "the image is damaged: "),
    "noise": (b"\xff\xd8\xff\xe0 no jpeg at all", "the image is damaged"),
    "other": (b"plain words", "is damaged, or not an image of a known format"),
}


def test_each_damaged_file_of_a_folder_is_named_with_its_reason(tmp_path: Path) -> None:
    """A row number says nothing of a folder, and one fault a run means as many runs as faults."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(picture())
    for content, message in DAMAGED.values():
        (tmp_path / "cat" / "bad.jpg").write_bytes(content)
        with pytest.raises(DataError) as caught:
            encode_images(read(tmp_path), "image", vit())
        assert str(caught.value).startswith(f"{tmp_path}/cat/bad.jpg: {message}")
    (tmp_path / "dog" / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{tmp_path}: 2 images cannot be used\n  .*cat/bad\.jpg.*\n  .*dog/bad\.jpg"):
        encode_images(read(tmp_path), "image", vit())
    for number in range(12):
        (tmp_path / "dog" / f"{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match="more than 10 images cannot be used") as many:
        encode_images(read(tmp_path), "image", vit())
    assert len(str(many.value).splitlines()) == 1 + 10 + 1


def test_photos_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6  # EXIF: the camera was turned by 90 degrees
    assert ImageFile(picture(kind="JPEG", exif=exif), "x").decode().size == (4, 6)


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(ImageFile(buffer.getvalue(), "x").decode().convert("L")).mean() == 10


@pytest.mark.parametrize("mode", ["I", "F", "I;16"])
def test_more_than_eight_bits_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match=r"x\.tiff: the image has more than 8 bits per channel; convert it"):
        ImageFile(tmp_path / "x.tiff", str(tmp_path / "x.tiff")).decode()


def test_a_path_never_reaches_the_network(make_source: Callable[..., Source]) -> None:
    """`datasets` downloads an image whose path is an address; the guard of all tests would see it."""
    column = datasets.Features({"image": datasets.Image()})
    source = make_source(column, image=[{"bytes": None, "path": "https://example.org/a.png"}])
    with pytest.raises(DataError, match=r"made\.jsonl, row 1: the image is an address"):
        with_images(source, "image")


def test_gaps_and_other_columns(make_source: Callable[..., Source]) -> None:
    with pytest.raises(DataError, match=r"column `image` is empty in 1 of 2 rows"):
        with_images(make_source(image=["a.png", None]), "image")
    with pytest.raises(RecipeError, match=r"column `image` of made\.jsonl contains List, not images, paths or bytes"):
        with_images(make_source(image=[[1, 2]]), "image")
