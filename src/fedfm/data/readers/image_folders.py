"""Folders of images: a subfolder a class, or a table that names the files."""

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
"""Tables beside images, with their names in ``file_name``, as `datasets` has them."""

_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
"""What operating systems leave in folders, beside names that begin with a dot."""


def read_class_folder(folder: Path, *, where: str) -> tuple[Dataset, tuple[str, ...]]:
    """The images ``folder/CLASS/…/FILE`` as columns ``image`` and ``label``, in the order of their names.

    Read here rather than by `datasets`' image folder, which takes class folders or files called train or test for
    splits and leaves the others out.

    Returns:
        The table, and notes about files that are left out.

    Raises:
        RecipeError: there are no subfolders.
        DataError: a subfolder holds no image.
    """
    classes = [entry for entry in visible(folder) if entry.is_dir()]
    if not classes:
        tables = [entry.name for entry in visible(folder) if entry.suffix in (".csv", ".tsv", ".jsonl", ".parquet")]
        hint = f", or name the table that lists them ({', '.join(tables)})" if tables else ""
        raise RecipeError(f"{folder} has no subfolders; images must lie in {folder}/CLASS/{hint}", where=where)
    paths: list[str] = []
    labels: list[int] = []
    left_out = [entry for entry in visible(folder) if not entry.is_dir()]
    for label, subfolder in enumerate(classes):
        files = list(files_below(subfolder))
        images = [path for path in files if is_image(path)]
        others = [path for path in files if not is_image(path)]
        if not images:
            found = f": it holds {by_ending(subfolder, others)}" if others else ""
            raise DataError(f"{subfolder}: no images, though each subfolder of {folder} is a class{found}")
        paths += map(str, images)
        labels += [label] * len(images)
        left_out += others
    features = Features({"image": Image(), "label": ClassLabel(names=[entry.name for entry in classes])})
    notes = (f"{folder}: left out {by_ending(folder, left_out)}",) if left_out else ()
    return Dataset.from_dict({"image": paths, "label": labels}, features=features), notes


def read_listed_images(folder: Path, read: Callable[[Path], Dataset]) -> tuple[Dataset, tuple[str, ...]]:
    """The images that ``folder/metadata.csv`` (jsonl, parquet) names, as column ``image``, with its other columns.

    Args:
        folder: of the table; names are relative to it.
        read: reads the table.

    Returns:
        The table, and notes about images that are not in it.

    Raises:
        DataError: it has no column ``file_name``.
    """
    path = next(folder / name for name in METADATA if (folder / name).is_file())
    table = read(path)
    if "file_name" not in table.column_names:
        raise DataError(
            f"{path}: no column `file_name`, which names the images; columns: {', '.join(table.column_names)}"
        )
    names = [str(name) for name in table["file_name"]]
    known = {os.path.normpath(name) for name in names}
    rest = [entry for entry in files_below(folder) if is_image(entry) and str(entry.relative_to(folder)) not in known]
    notes = (f"{folder}: left out {by_ending(folder, rest)}, which {path.name} does not name",) if rest else ()
    others = table.remove_columns([name for name in ("file_name", "image") if name in table.column_names])
    images = [{"bytes": None, "path": str(folder / name)} for name in names]
    return others.add_column("image", images, feature=Image()), notes


def names_digest(table: Dataset, folder: Path) -> str:
    """sha256 (hex) over the names of a folder's images and the other columns, but not over the folder's place."""
    columns = table.with_format("arrow")[:]
    names = [os.path.relpath(image["path"], folder) for image in columns["image"].to_pylist()]
    return hashlib.sha256(repr((names, columns.drop_columns("image").to_pylist())).encode()).hexdigest()


def visible(folder: Path) -> list[Path]:
    """The entries of a folder that a user has put there, sorted."""
    return sorted(entry for entry in folder.iterdir() if not _is_hidden(entry))


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, sorted; a link to a folder above it is not followed."""

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
    """Files in words: how many there are of each ending, with an example."""
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
