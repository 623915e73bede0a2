"""Finds the files of a split in a folder of tables, such as a clone of a data set's repository."""

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
    """The files in a folder and its subfolders whose names have the ending of a table, sorted."""
    found: list[Path] = []
    for entry in visible(folder):
        if entry.is_dir():
            found += table_files(entry, endings)
        elif entry.name.lower().endswith(tuple(endings)):
            found.append(entry)
    return found


def files_of_split(folder: Path, files: list[Path], split: str, *, where: str) -> tuple[list[Path], tuple[str, ...]]:
    """The tables of a folder that belong to a split.

    If the repository's card lists data files, as on the Hub, it decides. Otherwise the names of files and folders
    decide (``train.csv``, ``data/test-00000-of-00002.parquet``, ``validation/part.jsonl``). If no name refers to a
    split, all files are one table.

    Args:
        folder: of the tables.
        files: its tables, from `table_files`.
        split: ``train``, ``validation`` or ``test``.
        where: the recipe key of the folder, for messages.

    Returns:
        The files of the split, and notes about files that are left out.

    Raises:
        RecipeError: the folder has no such split, or the card describes several configurations.
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
            f"if these are not splits, give a pattern of files, such as {folder}/*.csv",
            where=where,
        )
    named = {path for paths in parts.values() for path in paths}
    return parts[split], _left_out(folder, [path for path in files if path not in named], ", which belong to no split")


def _left_out(folder: Path, paths: list[Path], why: str = "") -> tuple[str, ...]:
    return (f"{folder}: left out {by_ending(folder, paths)}{why}",) if paths else ()


def _split_in_name(path: Path) -> str | None:
    """The split that a path names: the name of a folder, or a word of the file's name."""
    names = [*path.parent.parts, *re.split(r"[^A-Za-z]+", path.name)]
    return next((split for name in names if (split := split_of(name)) is not None), None)


def _listed(folder: Path, files: list[Path], where: str) -> dict[str, list[Path]]:
    """Split → files, as listed in the repository's card; empty if it lists no files."""
    configurations = _configurations(folder / _CARD)
    if not configurations:
        return {}
    chosen = [entry for entry in configurations if entry.get("default") or entry.get("config_name") == "default"]
    if len(chosen or configurations) > 1:
        names = ", ".join(str(entry.get("config_name")) for entry in configurations)
        raise RecipeError(
            f"{folder / _CARD} describes several data sets: {names}; give the folder of one of them", where=where
        )
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
    """The configurations with data files in the front matter of a card."""
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
    """Whether a pattern of a folder's card matches a file, or names a folder that contains it."""
    name = path.relative_to(folder).as_posix()
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/")
