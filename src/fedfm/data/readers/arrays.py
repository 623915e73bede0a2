"""NumPy archives of images: pixels, or JPEG files laid end to end."""

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

    It holds either ``image``, uint8 [N, H, W] or [N, H, W, C] with C 1, 3 or 4; or ``jpeg``, uint8 bytes end to end,
    with ``offset``, int64 [N + 1]. Every further array of N numbers or strings becomes a column.

    Raises:
        DataError: when it is no such archive, holds Python objects, or its arrays do not agree.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a NumPy archive: {error}") from error
    images = _images(arrays, path)
    columns = {name: array for name, array in arrays.items() if name not in ("image", "jpeg", "offset")}
    for name, array in columns.items():
        if array.ndim != 1 or len(array) != len(images):
            raise DataError(f"{path}: `{name}` has shape {list(array.shape)}, not [{len(images)}]: one value an image")
    features = {
        name: Value("string" if array.dtype.kind in "US" else str(array.dtype)) for name, array in columns.items()
    }
    table = {"image": images, **{name: array.tolist() for name, array in columns.items()}}
    return Dataset.from_dict(table, features=Features({"image": Image(), **features}))


def _images(arrays: Mapping[str, np.ndarray], path: Path) -> list[Any]:
    if "image" in arrays:
        pixels = arrays["image"]
        if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in (1, 3, 4))):
            raise DataError(
                f"{path}: `image` is {pixels.dtype} {list(pixels.shape)}, not uint8 [N, H, W] or [N, H, W, 1|3|4]"
            )
        return list(pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels)
    if "jpeg" not in arrays or "offset" not in arrays:
        raise DataError(f"{path}: has {', '.join(arrays)}; needs `image`, or `jpeg` and `offset`")
    content, offset = arrays["jpeg"], arrays["offset"]
    sound = content.dtype == np.uint8 and offset.dtype.kind in "iu" and content.ndim == offset.ndim == 1 and len(offset)
    if not (sound and offset[0] == 0 and offset[-1] == len(content) and (np.diff(offset) > 0).all()):
        raise DataError(f"{path}: `offset` must rise from 0 to the length of `jpeg`, {len(content)} bytes of uint8")
    return [{"bytes": content[start:end].tobytes()} for start, end in pairwise(offset)]
