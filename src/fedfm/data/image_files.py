"""Reads the images of a column: paths of files, file contents as bytes, `datasets` images, or base64 text."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Image as ImageFeature
from datasets import Value
from PIL import Image, ImageOps, UnidentifiedImageError

from fedfm.data.columns import column_of, described, is_text
from fedfm.data.readers.formats import FORMATS, LFS_POINTER
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

ROWS_PER_BATCH = 100

_LISTED = 10
"""Maximum number of images that an error names."""
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP")
_OTHERS = {
    b"%PDF": "a PDF document; convert its pages to PNG",
    b"%!PS": "a PostScript file; convert it to PNG",
    b"<svg": "an SVG drawing; convert it to PNG",
    b"<?xml": "an XML file, such as an SVG drawing; convert it to PNG",
    b"<html": "an HTML page, not an image",
    b"<!doctype": "an HTML page, not an image",
    LFS_POINTER: "a Git LFS pointer, not the image itself; run `git lfs pull` in the cloned repository",
}
"""First bytes of files that are often mistaken for images → description."""


@dataclass(frozen=True)
class ImageFile:
    """One image before it is decoded.

    Attributes:
        content: the path or the content of the file; None if the image is missing.
        name: a path, or a row of a table, for messages.
        fault: why the image is missing.
    """

    content: Path | bytes | None
    name: str
    fault: str = ""

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            DataError: the file is missing or cannot be read.
        """
        if self.content is None:
            raise DataError(f"{self.name}: {self.fault}")
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror}") from error

    def decode(self) -> Image.Image:
        """The image, rotated by its EXIF orientation; the first frame of an animation.

        Raises:
            DataError: the file is damaged, not an image, too large to be decoded safely, or has more than 8 bits per
                channel.
        """
        content = self.read()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # half of the size limit
                opened = Image.open(io.BytesIO(content), formats=FORMATS)
                opened.load()
                image = ImageOps.exif_transpose(opened)
        except Image.DecompressionBombError as error:
            raise DataError(f"{self.name}: the image is too large: {str(error).partition(',')[0]}") from error
        except UnidentifiedImageError as error:
            raise DataError(f"{self.name}: {_what_it_is(content)}") from error
        except Exception as error:  # decoders raise many types for damaged files
            raise DataError(f"{self.name}: the image is damaged: {error}") from error
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise DataError(
                f"{self.name}: the image has more than 8 bits per channel; convert it to 8 bits, scaling the values to "
                "0 to 255"
            )
        return image


def with_images(source: Source, column: str, where: str = "data.image") -> Source:
    """The source with a digest that covers the content of the images of ``column``.

    Args:
        source: the rows.
        column: with `datasets` images, paths (relative to the file that names them, otherwise to the working folder),
            bytes, ``{bytes, path}``, or base64 text.
        where: the recipe key that names the column, for messages.

    Raises:
        RecipeError: the column is missing or has another type.
        DataError: a value or an image is missing; the message names it.
    """
    if source.images is not None:
        return source
    column_of(source, column, where)
    feature = source.table.features[column]
    if not _holds_images(feature):
        raise RecipeError(
            f"column `{column}` of {source.name} contains {described(feature)}, not images, paths or bytes", where=where
        )
    faults: list[str] = []
    digests = [_digest(file, faults) for file in images_of(source, column, range(len(source)))]
    if faults:
        raise _listed(source, faults)
    images = np.array(digests, dtype="S32")
    digest = hashlib.sha256(source.digest.encode() + images.tobytes()).hexdigest()
    return replace(source, images=images, digest=digest)


def images_of(source: Source, column: str, rows: Sequence[int]) -> Iterator[ImageFile]:
    """The images in some rows of a column, which `with_images` has checked."""
    stored = source.table.select_columns(column).with_format("arrow")
    folders = cache(_folders)
    for start in range(0, len(rows), ROWS_PER_BATCH):
        chosen = rows[start : start + ROWS_PER_BATCH]
        for row, value in zip(chosen, stored[list(chosen)][column].to_pylist(), strict=True):
            file = source.file_of(row)
            yield _image_file(value, f"{file}, row {source.row_number(row)}", folders(file))


def faults_of(source: Source, column: str, rows: Sequence[int], use: Callable[[ImageFile], object]) -> DataError:
    """An error that names the first images in some rows for which ``use`` fails."""
    faults: list[str] = []
    for file in images_of(source, column, rows):
        try:
            use(file)
        except DataError as error:
            faults.append(str(error))
        if len(faults) > _LISTED:
            break
    return _listed(source, faults)


def _listed(source: Source, faults: list[str]) -> DataError:
    if len(faults) == 1:
        return DataError(faults[0])
    more = ["…"] if len(faults) > _LISTED else []
    count = f"more than {_LISTED}" if more else str(len(faults))
    lines = [f"{source.name}: {count} images cannot be used", *faults[:_LISTED], *more]
    return DataError("\n  ".join(lines))


def _holds_images(feature: Any) -> bool:
    """Whether a column of this type can contain images."""
    if isinstance(feature, Value):
        return is_text(feature) or feature.dtype in ("binary", "large_binary")
    return isinstance(feature, ImageFeature) or (
        isinstance(feature, dict) and {"bytes", "path"} & feature.keys() != set()
    )


def _digest(file: ImageFile, faults: list[str]) -> bytes:
    try:
        return hashlib.sha256(file.read()).digest()
    except DataError as error:
        if len(faults) <= _LISTED:
            faults.append(str(error))
        return b""


def _folders(file: str) -> tuple[Path, ...]:
    """The folders that a file's relative paths may start from: its own folder, then the working folder."""
    place = Path(file)
    beside = (place,) if place.is_dir() else (place.parent,) if place.is_file() else ()
    return (*beside, Path.cwd())


def _image_file(value: Any, row: str, folders: tuple[Path, ...]) -> ImageFile:
    """The image that a value of a column contains or names."""
    if isinstance(value, bytes):
        return ImageFile(value, row)
    if isinstance(value, str):
        return _named_image(value, row, folders)
    content, path = value.get("bytes"), value.get("path")
    if content is not None:
        return ImageFile(content, f"{row} ({path})" if path else row)
    if path is None:
        return ImageFile(None, row, "the image has neither bytes nor a path")
    return _named_image(path, row, folders)


def _named_image(text: str, row: str, folders: tuple[Path, ...]) -> ImageFile:
    """The image file of a path, or the image in base64 text."""
    for folder in folders:
        path = os.path.join(folder, os.path.expanduser(text))  # noqa: PTH111, PTH118 - text may be too long for a path
        if os.path.isfile(path):  # noqa: PTH113
            return ImageFile(Path(path), path)
    if (content := _from_base64(text)) is not None:
        return ImageFile(content, row)
    short = text if len(text) <= 200 else f"{text[:60]}…"
    if "://" in text[:12]:
        return ImageFile(None, row, f"the image is an address, {short}; download it and give the path of the file")
    looked = "" if os.path.isabs(text) else f" in {' or '.join(map(str, dict.fromkeys(folders)))}"  # noqa: PTH117
    return ImageFile(None, row, f"no image file {short}{looked}")


def _from_base64(text: str) -> bytes | None:
    """The content of base64 text, if it begins like an image."""
    encoded = text.partition(",")[2] if text.startswith("data:image/") else text
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if text.startswith("data:image/") or content.startswith(_SIGNATURES) else None


def _what_it_is(content: bytes) -> str:
    """Says why Pillow cannot identify a file."""
    if not content:
        return "is an empty file, not an image"
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"heif", b"mif1", b"msf1"):
        return "is a HEIC image, which is not supported; convert it to JPEG or PNG"
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what in _OTHERS.items():
        if start.startswith(beginning.lower()):
            return f"is {what}"
    return f"is damaged, or not an image of a known format ({', '.join(FORMATS)})"
