"""Folders of tables, such as a clone of a data set's repository: which files hold a split."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from fedfm.data.readers.image_folders import by_ending, visible
from fedfm.data.readers.splits import SPLITS, split_of
from fedfm.errors import DataError, RecipeError

_CARD = "README.md"


def table_files(folder: Path, endings: Collection[str]) -> list[Path]:
    """The files of a folder, and of its subfolders, whose names end as a table's does, sorted."""
    found: list[Path] = []
    for entry in visible(folder):
        if entry.is_dir():
            found += table_files(entry, endings)
        elif entry.name.lower().endswith(tuple(endings)):
            found.append(entry)
    return found


def files_of_split(folder: Path, files: list[Path], split: str, *, where: str) -> tuple[list[Path], tuple[str, ...]]:
    """Those of a folder's tables that hold a split.

    The repository's card decides where it lists data files, as the Hub writes it; else the names of files and folders
    (``train.csv``, ``data/test-00000-of-00002.parquet``, ``validation/part.jsonl``); a folder in which nothing
    is named for a split is one table.

    Args:
        folder: of the tables.
        files: in it, from `table_files`.
        split: ``train``, ``validation`` or ``test``.
        where: the recipe key that holds the folder, for messages.

    Returns:
        The files of the split, and notes about files that are left out.

    Raises:
        RecipeError: there is no such split, or the card describes several configurations.
        DataError: the card is damaged.
    """
    parts = _listed(folder, files, where)
    if not parts:
        for path in files:
            if (part := _split_in_name(path.relative_to(folder))) is not None:
                parts.setdefault(part, []).append(path)
    if not parts:
        others = [path for path in visible(folder) if path.is_file() and path not in files]
        return files, _left_out(folder, others)
    if split not in parts:
        raise RecipeError(
            f"{folder} has no files for {split} ({', '.join(SPLITS[split])}); it has {', '.join(parts)}; "
            f"where these are no splits, name the files, such as {folder}/*.csv",
            where=where,
        )
    named = {path for paths in parts.values() for path in paths}
    return parts[split], _left_out(folder, [path for path in files if path not in named], ", which no split names")


def _left_out(folder: Path, paths: list[Path], why: str = "") -> tuple[str, ...]:
    return (f"{folder}: left out {by_ending(folder, paths)}{why}",) if paths else ()


def _split_in_name(path: Path) -> str | None:
    """The split that a path speaks of: in the name of a folder, else in a word of the file's name."""
    names = [*path.parent.parts, *re.split(r"[^A-Za-z]+", path.name)]
    return next((split for name in names if (split := split_of(name)) is not None), None)


def _listed(folder: Path, files: list[Path], where: str) -> dict[str, list[Path]]:
    """Split → files, as the repository's card lists them; empty where it lists none."""
    configurations = _configurations(folder / _CARD)
    if not configurations:
        return {}
    chosen = [entry for entry in configurations if entry.get("default") or entry.get("config_name") == "default"]
    if len(chosen or configurations) > 1:
        names = ", ".join(str(entry.get("config_name")) for entry in configurations)
        raise RecipeError(f"{folder / _CARD} describes several data sets: {names}; name the folder of one", where=where)
    listed = (chosen or configurations)[0].get("data_files")
    entries = listed if isinstance(listed, list) else [{"split": "train", "path": listed}]
    parts: dict[str, list[Path]] = {}
    for entry in entries:
        if not isinstance(entry, Mapping):
            entry = {"split": "train", "path": entry}
        patterns = entry.get("path")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            split = split_of(str(entry.get("split"))) or str(entry.get("split"))
            parts.setdefault(split, []).extend(path for path in files if _matches(path, folder, str(pattern)))
    return {split: paths for split, paths in parts.items() if paths}


def _configurations(card: Path) -> list[dict[str, Any]]:
    """What the front matter of a card says of data files."""
    if not card.is_file():
        return []
    text = card.read_text(encoding="utf-8", errors="replace")
    matter = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        values = yaml.safe_load(matter[1]) if matter else None
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{card}: the YAML at its top is damaged: {error}") from error
    listed = values.get("configs") if isinstance(values, dict) else None
    return [entry for entry in listed or [] if isinstance(entry, dict) and entry.get("data_files")]


def _matches(path: Path, folder: Path, pattern: str) -> bool:
    """Whether a file of a folder is meant by a pattern of its card, or lies in a folder that is."""
    name = path.relative_to(folder).as_posix()
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/")
