"""Image formats that are read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""What Pillow decodes itself. Other formats need a program (EPS starts Ghostscript), or are not pictures of pixels."""

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS has not fetched."""


def is_image(path: Path) -> bool:
    """Whether a file's ending is that of an image format that can be read."""
    return Image.registered_extensions().get(path.suffix.lower()) in {*FORMATS, "MPO"}  # a JPEG of several pictures
