"""Finds the files of a recipe's reference: a file, a folder of files, a pattern, or a list of these."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedfm.data.readers.files import ending_of
from fedfm.data.readers.image_folders import by_ending, visible
from fedfm.errors import RecipeError


def named_files(references: Sequence[str], *, where: str) -> tuple[list[Path], list[str]]:
    """The files that references name, and notes about files that are left out.

    The files of a pattern or a folder are sorted by name; the order of the references is kept.

    Raises:
        RecipeError: no file exists, a file is named twice, or the files of a folder have different formats.
    """
    files: list[Path] = []
    notes: list[str] = []
    for reference in references:
        if reference.partition(":")[0] in ("builtin", "hf"):
            raise RecipeError(f"a list can contain only files, folders and patterns, not {reference}", where=where)
        for path in _matches(reference, where):
            if path.is_dir():
                found, note = tables_in(path, where=where)
                files += found
                notes += note
            else:
                files.append(path)
    twice = [str(path) for path, count in Counter(map(os.path.realpath, files)).items() if count > 1]
    if twice:
        raise RecipeError(f"names a file twice: {', '.join(sorted(twice))}", where=where)
    return files, notes


def is_pattern(reference: str) -> bool:
    """Whether a reference is a pattern of file names, such as ``data/*.csv``, and not the name of an existing file."""
    return glob.has_magic(reference) and not Path(reference).expanduser().exists()


def tables_in(folder: Path, *, where: str) -> tuple[list[Path], list[str]]:
    """The tables directly in a folder, and notes about files that are left out; hidden files are ignored.

    Raises:
        RecipeError: the folder has no tables, or tables with different endings.
    """
    entries = visible(folder)
    tables = [entry for entry in entries if entry.is_file() and ending_of(entry)]
    if not tables:
        raise RecipeError(f"{folder} has no table files; give a pattern, such as {folder}/*/*.csv", where=where)
    check_endings(folder, tables, where=where)
    others = [entry for entry in entries if entry not in tables]
    return tables, [f"{folder}: left out {by_ending(folder, others)}"] if others else []


def check_endings(folder: Path, tables: Sequence[Path], *, where: str) -> None:
    """Refuses tables in several formats.

    Raises:
        RecipeError: the files have different endings.
    """
    endings = Counter(ending_of(table) for table in tables)
    if len(endings) > 1:
        counts = " and ".join(f"{count} × {ending}" for ending, count in sorted(endings.items(), key=str))
        pattern = folder / f"*{endings.most_common(1)[0][0]}"
        raise RecipeError(f"{folder} has files in several formats: {counts}; choose one: {pattern}", where=where)


def file_clients(files: Sequence[Path]) -> list[str]:
    """The client name of each file: its name without ending, with parent folders if several files have this name."""
    stems = [_without_ending(path) for path in files]
    if len(set(stems)) == len(stems):
        return stems
    common = os.path.commonpath([path.parent for path in files])
    names = [Path(os.path.relpath(path, common)) for path in files]
    longer = [(name.parent / stem).as_posix() for name, stem in zip(names, stems, strict=True)]
    for candidates in (longer, [name.as_posix() for name in names]):
        counts = Counter(stems)
        stems = [new if counts[stem] > 1 else stem for stem, new in zip(stems, candidates, strict=True)]
    return stems


def _without_ending(path: Path) -> str:
    ending = ending_of(path)
    return path.name[: -len(ending)] if ending else path.name


def _matches(reference: str, where: str) -> list[Path]:
    if not is_pattern(reference):
        return [Path(reference).expanduser().absolute()]
    pattern = Path(reference).expanduser().absolute()
    found = sorted(glob.glob(str(pattern), recursive=True))  # noqa: PTH207 - Path's takes hidden files too
    files = [Path(name) for name in found if Path(name).is_file()]
    if not files:
        raise RecipeError(f"no file matches {pattern}", where=where)
    return files
