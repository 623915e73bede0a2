"""Decides what a folder contains: images by class, listed images, or tables."""

from __future__ import annotations

from pathlib import Path

from fedfm.data.readers.formats import is_image
from fedfm.data.readers.image_folders import METADATA, files_below, visible
from fedfm.data.readers.splits import SPLITS, split_among, split_of
from fedfm.errors import RecipeError


def image_folder_of_split(folder: Path, split: str, *, where: str) -> Path:
    """The subfolder with the images of a split (``train/CLASS/FILE``), or the folder itself if it has no splits.

    Subfolders are splits only if all of them have names of splits and contain folders themselves. A folder ``test``
    beside other names, or one that contains images, is a class.

    Raises:
        RecipeError: the folder has splits, but not this one.
    """
    parts = {entry.name: entry for entry in visible(folder) if entry.is_dir()}
    if split_among(parts, "train") is None or not all(
        split_of(name) and _is_whole(part) for name, part in parts.items()
    ):
        return folder
    chosen = split_among(parts, split)
    if chosen is None:
        raise RecipeError(f"{folder} has no {'/, '.join(SPLITS[split])}/; it has {', '.join(parts)}", where=where)
    return parts[chosen]


def holds_tables(folder: Path, tables: list[Path]) -> bool:
    """Whether a folder is a data set of tables, rather than of images in subfolders for each class.

    Args:
        folder: the folder that the recipe names.
        tables: the tables in it and in its subfolders.
    """
    if not tables:
        return False
    if (folder / "README.md").is_file() or any(path.parent != folder for path in tables):
        return True
    return not any(map(is_image, files_below(folder)))


def is_listed(folder: Path) -> bool:
    """Whether a table in the folder lists its images."""
    return any((folder / name).is_file() for name in METADATA)


def _is_whole(folder: Path) -> bool:
    """Whether a folder has classes, or a table that lists its images."""
    return is_listed(folder) or any(entry.is_dir() for entry in visible(folder))
