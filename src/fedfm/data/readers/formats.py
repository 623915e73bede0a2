"""Supported image formats."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that Pillow decodes itself. Others need a program (EPS starts Ghostscript) or are not raster images."""

LFS_POINTER = b"version https://git-lfs"
"""First bytes of a file that Git LFS has not fetched."""


def is_image(path: Path) -> bool:
    """Whether a file has the ending of a supported image format."""
    return Image.registered_extensions().get(path.suffix.lower()) in {
        *FORMATS,
        "MPO",
    }  # MPO: a JPEG with several pictures
