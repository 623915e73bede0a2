"""Reads NumPy archives of images: pixels, or concatenated JPEG files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value

from fedfm.errors import DataError


def read_arrays(path: Path, scratch: Path) -> Dataset:
    """Reads an ``.npz`` file of N images.

    It contains either ``image``, whole numbers from 0 to 255, [N, H, W] or [N, H, W, C] with C 1, 3 or 4; or ``jpeg``,
    concatenated files as uint8, with ``offset``, int64 [N + 1]. Every other array of N numbers or strings ([N] or
    [N, 1]) becomes a column; bytes are UTF-8 text.

    Raises:
        DataError: the file is not such an archive, contains Python objects, or its arrays do not match.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: _array(archive, name, path) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a NumPy archive: {error}") from error
    images = _images(arrays, path)
    columns = {name: array for name, array in arrays.items() if name not in ("image", "jpeg", "offset")}
    columns = {name: _column(name, array, len(images), path) for name, array in columns.items()}
    features = {
        name: Value("string" if array.dtype.kind == "U" else str(array.dtype)) for name, array in columns.items()
    }
    table = {"image": images, **{name: array.tolist() for name, array in columns.items()}}
    return Dataset.from_dict(table, features=Features({"image": Image(), **features}))


def _array(archive: Any, name: str, path: Path) -> np.ndarray:
    """One array of an archive, without Python objects."""
    try:
        array: np.ndarray = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(
            f"{path}: `{name}` contains pickled Python objects, which are never read; save it as numbers or as text "
            "(`array.astype(str)`)"
        ) from error
    return array


def _column(name: str, array: np.ndarray, images: int, path: Path) -> np.ndarray:
    """One value per image, [N]; bytes become text."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) != images:
        raise DataError(f"{path}: `{name}` has shape {list(array.shape)}, not [{images}]: one value per image")
    if array.dtype.kind not in "biufUS":
        raise DataError(f"{path}: `{name}` contains {array.dtype}, not numbers or text")
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: `{name}` contains bytes that are not UTF-8 text: {error.reason}") from error
    return array


def _pixels(pixels: np.ndarray, path: Path) -> np.ndarray:
    """uint8 [N, H, W] or [N, H, W, C]."""
    if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:
        low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
        if low < 0 or high > 255:
            raise DataError(f"{path}: `image` has values from {low} to {high}, not from 0 to 255")
        pixels = pixels.astype(np.uint8)
    if pixels.dtype == np.uint8 and (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in (1, 3, 4))):
        return pixels
    remedies = []
    if pixels.dtype.kind == "f":
        remedies.append("scale its values to 0 to 255 and save them as uint8")
    if pixels.ndim == 4 and pixels.shape[1] in (1, 3, 4):
        remedies.append("put the channels last (`np.moveaxis(image, 1, -1)`)")
    advice = f"; {', and '.join(remedies)}" if remedies else ""
    raise DataError(
        f"{path}: `image` is {pixels.dtype} {list(pixels.shape)}, not uint8 [N, H, W] or [N, H, W, 1|3|4]{advice}"
    )


def _images(arrays: Mapping[str, np.ndarray], path: Path) -> list[Any]:
    if "image" in arrays:
        pixels = _pixels(arrays["image"], path)
        return list(pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels)
    if "jpeg" not in arrays or "offset" not in arrays:
        raise DataError(f"{path}: has {', '.join(arrays)}; needs `image`, or `jpeg` and `offset`")
    content, offset = arrays["jpeg"], arrays["offset"]
    sound = content.dtype == np.uint8 and offset.dtype.kind in "iu" and content.ndim == offset.ndim == 1 and len(offset)
    if not (sound and offset[0] == 0 and offset[-1] == len(content) and (np.diff(offset) > 0).all()):
        raise DataError(f"{path}: `offset` must increase from 0 to the length of `jpeg`, {len(content)} bytes of uint8")
    return [{"bytes": content[start:end].tobytes()} for start, end in pairwise(offset)]
