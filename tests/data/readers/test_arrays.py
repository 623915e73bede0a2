"""NumPy archives: pixels, JPEG files, and refusals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Image
from PIL import Image as PIL_Image

from fedfm.data.sources import read_source
from fedfm.errors import DataError

GREY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
COLOUR = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def save(folder: Path, **arrays: Any) -> str:
    np.savez_compressed(folder / "x.npz", **arrays)
    return str(folder / "x.npz")


@pytest.mark.parametrize(("pixels", "seen"), [(GREY, GREY), (GREY[..., np.newaxis], GREY), (COLOUR, COLOUR)])
def test_pixels_are_kept_exactly(tmp_path: Path, pixels: np.ndarray, seen: np.ndarray) -> None:
    path = save(tmp_path, image=pixels, label=np.array([4, 2]), writer=np.array(["ann", "bob"]))
    table = read_source(path, "train", where="data.train").table
    assert isinstance(table.features["image"], Image)
    assert table.remove_columns("image").to_list() == [{"label": 4, "writer": "ann"}, {"label": 2, "writer": "bob"}]
    for image, expected in zip(table["image"], seen, strict=True):
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_jpeg_files_end_to_end(tmp_path: Path) -> None:
    files = []
    for value in (10, 200):
        buffer = io.BytesIO()
        PIL_Image.new("L", (5, 4), value).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    path = save(
        tmp_path,
        jpeg=np.frombuffer(b"".join(files), dtype=np.uint8),
        offset=np.cumsum([0, *map(len, files)]),
        label=np.array([0, 1]),
    )
    images = read_source(path, "train", where="data.train").table["image"]
    assert [(image.size, int(np.asarray(image).mean())) for image in images] == [((5, 4), 10), ((5, 4), 200)]


def test_whole_numbers_of_any_width_and_labels_of_any_shape(tmp_path: Path) -> None:
    """Bytes are text: a class called ``b'cat'`` would match no other file's ``cat``."""
    path = save(
        tmp_path,
        image=COLOUR.astype(np.int64),
        label=np.array([b"cat", "Kätzchen".encode()]),
        column=np.array([[3], [4]]),
    )
    table = read_source(path, "train", where="data.train").table
    np.testing.assert_array_equal(np.asarray(table["image"][1]), COLOUR[1])
    assert table["label"][:] == ["cat", "Kätzchen"]
    assert table["column"][:] == [3, 4]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "float": ({"image": GREY / 255}, r"`image` is float64 \[2, 3, 4\], not uint8.*; scale its values"),
    "wide numbers": ({"image": GREY.astype(np.int32) * 100}, r"`image` has values from 0 to 2300, not from 0 to 255"),
    "bytes": ({"image": GREY, "label": np.array([b"\xff", b"a"])}, r"`label` contains bytes that are not UTF-8"),
    "dates": ({"image": GREY, "label": np.array(["2020", "2021"], "datetime64[Y]")}, r"`label` contains datetime64"),
    "channels first": ({"image": np.zeros((2, 3, 8, 8), np.uint8)}, r"`image` is uint8 \[2, 3, 8, 8\].*channels last"),
    "no image": ({"label": np.zeros(2)}, r"has label; needs `image`, or `jpeg` and `offset`"),
    "label too short": ({"image": GREY, "label": np.zeros(3)}, r"`label` has shape \[3\], not \[2\]"),
    "offset too far": (
        {"jpeg": np.zeros(9, np.uint8), "offset": np.array([0, 10])},
        r"`offset` must increase from 0 to .* 9",
    ),
    "offset falls": ({"jpeg": np.zeros(9, np.uint8), "offset": np.array([0, 9, 5, 9])}, r"`offset` must increase"),
    "objects": ({"image": GREY, "label": np.array([{}, []], dtype=object)}, r"`label` contains pickled Python objects"),
}


@pytest.mark.parametrize("what", WRONG)
def test_other_archives_are_refused(tmp_path: Path, what: str) -> None:
    arrays, message = WRONG[what]
    with pytest.raises(DataError, match=message):
        read_source(save(tmp_path, **arrays), "train", where="data.train")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(DataError, match=r"x\.npz: cannot be read as a NumPy archive"):
        read_source(str(tmp_path / "x.npz"), "train", where="data.train")
