"""Reads folders of images: a subfolder for each class, or a table that lists the files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from fedfm.data.readers.formats import is_image
from fedfm.errors import DataError, RecipeError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of tables that list images in a column ``file_name``; the convention of `datasets`."""

_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
"""Files that operating systems create in folders, besides names that begin with a dot."""


def read_class_folder(folder: Path, *, where: str) -> tuple[Dataset, tuple[str, ...]]:
    """The images ``folder/CLASS/…/FILE`` as columns ``image`` and ``label``, in the order of their names.

    `datasets`' own reader of image folders is not used: it takes class folders or files called train or test for splits
    and leaves out the others.

    Returns:
        The table, and notes about files that are left out.

    Raises:
        RecipeError: the folder has no subfolders.
        DataError: a subfolder contains no image.
    """
    classes = [entry for entry in visible(folder) if entry.is_dir()]
    if not classes:
        tables = [entry.name for entry in visible(folder) if entry.suffix in (".csv", ".tsv", ".jsonl", ".parquet")]
        hint = f", or give the path of the table that lists them ({', '.join(tables)})" if tables else ""
        raise RecipeError(f"{folder} has no subfolders; images must be in {folder}/CLASS/{hint}", where=where)
    paths: list[str] = []
    labels: list[int] = []
    left_out = [entry for entry in visible(folder) if not entry.is_dir()]
    for label, subfolder in enumerate(classes):
        files = list(files_below(subfolder))
        images = [path for path in files if is_image(path)]
        others = [path for path in files if not is_image(path)]
        if not images:
            found = f": it contains {by_ending(subfolder, others)}" if others else ""
            raise DataError(f"{subfolder}: no images, but each subfolder of {folder} is a class{found}")
        paths += map(str, images)
        labels += [label] * len(images)
        left_out += others
    features = Features({"image": Image(), "label": ClassLabel(names=[entry.name for entry in classes])})
    notes = (f"{folder}: left out {by_ending(folder, left_out)}",) if left_out else ()
    return Dataset.from_dict({"image": paths, "label": labels}, features=features), notes


def read_listed_images(folder: Path, read: Callable[[Path], Dataset]) -> tuple[Dataset, tuple[str, ...]]:
    """The images that ``folder/metadata.csv`` (jsonl, parquet) lists, as column ``image``, with its other columns.

    Args:
        folder: of the table; names of images are relative to it.
        read: reads the table.

    Returns:
        The table, and notes about images that it does not list.

    Raises:
        DataError: the table has no column ``file_name``.
    """
    path = next(folder / name for name in METADATA if (folder / name).is_file())
    table = read(path)
    if "file_name" not in table.column_names:
        raise DataError(
            f"{path}: no column `file_name`, which must name the images; columns: {', '.join(table.column_names)}"
        )
    names = [str(name) for name in table["file_name"]]
    known = {os.path.normpath(name) for name in names}
    rest = [entry for entry in files_below(folder) if is_image(entry) and str(entry.relative_to(folder)) not in known]
    notes = (f"{folder}: left out {by_ending(folder, rest)}, which {path.name} does not list",) if rest else ()
    others = table.remove_columns([name for name in ("file_name", "image") if name in table.column_names])
    images = [{"bytes": None, "path": str(folder / name)} for name in names]
    return others.add_column("image", images, feature=Image()), notes


def names_digest(table: Dataset, folder: Path) -> str:
    """sha256 (hex) over the relative paths of a folder's images and the other columns, without the folder's path."""
    columns = table.with_format("arrow")[:]
    names = [os.path.relpath(image["path"], folder) for image in columns["image"].to_pylist()]
    return hashlib.sha256(repr((names, columns.drop_columns("image").to_pylist())).encode()).hexdigest()


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted, without hidden files and files of the operating system."""
    return sorted(entry for entry in folder.iterdir() if not _is_hidden(entry))


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, sorted. Links are followed, except links to a folder above."""

    def walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
        real = folder.resolve()
        if real in above:
            return
        for entry in visible(folder):
            if entry.is_dir():
                yield from walk(entry, above | {real})
            else:
                yield entry

    return walk(folder, frozenset())


def by_ending(folder: Path, paths: Iterable[Path]) -> str:
    """Describes files: the number with each ending, and an example."""
    paths = list(paths)
    counts = Counter(path.suffix.lower() for path in paths)
    first = {path.suffix.lower(): path for path in reversed(paths)}
    kinds = [
        f"{number} {ending or 'without an ending'} ({first[ending].relative_to(folder)}{', …' if number > 1 else ''}"
        f"{'; convert to JPEG or PNG' if ending in ('.heic', '.heif', '.svg', '.pdf', '.eps') else ''})"
        for ending, number in counts.most_common()
    ]
    return f"{len(paths)} file{'s' * (len(paths) != 1)}: {', '.join(kinds)}"


def _is_hidden(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in _JUNK
