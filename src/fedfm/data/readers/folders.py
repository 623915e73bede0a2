"""What a folder holds: images, a saved data set, or tables."""

from __future__ import annotations

from pathlib import Path

from fedfm.data.readers.formats import is_image
from fedfm.data.readers.image_folders import METADATA, files_below, visible
from fedfm.data.readers.splits import SPLITS, split_among, split_of
from fedfm.errors import RecipeError


def image_folder_of_split(folder: Path, split: str, *, where: str) -> Path:
    """Of a folder with the images of each split in a subfolder (``train/CLASS/FILE``) that one, else the folder.

    Subfolders are taken for splits only where all are called so and hold folders of their own: ``test`` among other
    names, or full of images, is a class.

    Raises:
        RecipeError: it has splits, but not this one.
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
    """Whether a folder's tables are what is meant, rather than images in subfolders that are classes.

    Args:
        folder: that was named.
        tables: the tables in it and below.
    """
    if not tables:
        return False
    if (folder / "README.md").is_file() or any(path.parent != folder for path in tables):
        return True
    return not any(map(is_image, files_below(folder)))


def is_listed(folder: Path) -> bool:
    """Whether a table in the folder names its images."""
    return any((folder / name).is_file() for name in METADATA)


def _is_whole(folder: Path) -> bool:
    """Whether a folder has classes, or a table that names its images."""
    return is_listed(folder) or any(entry.is_dir() for entry in visible(folder))
