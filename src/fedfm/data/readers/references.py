"""From what a recipe names to files: a file, a folder of files, a pattern, or a list of these."""

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
    """The files that references name, and what is left out, in sentences.

    A pattern's files and a folder's come in the order of their names, references in their own.

    Raises:
        RecipeError: nothing is there, a file is named twice, or a folder's files are not of one kind.
    """
    files: list[Path] = []
    notes: list[str] = []
    for reference in references:
        if reference.partition(":")[0] in ("builtin", "hf"):
            raise RecipeError(f"a list holds files, folders and patterns only, not {reference}", where=where)
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
    """Whether a reference is a pattern of file names, such as ``data/*.csv``, and not a file that is called so."""
    return glob.has_magic(reference) and not Path(reference).expanduser().exists()


def tables_in(folder: Path, *, where: str) -> tuple[list[Path], list[str]]:
    """The tables that lie directly in a folder, and what is left out there, in sentences; hidden files do not count.

    Raises:
        RecipeError: there is no table, or they have different endings.
    """
    entries = visible(folder)
    tables = [entry for entry in entries if entry.is_file() and ending_of(entry)]
    if not tables:
        raise RecipeError(f"{folder} has no files of tables; name the files, such as {folder}/*/*.csv", where=where)
    check_endings(folder, tables, where=where)
    others = [entry for entry in entries if entry not in tables]
    return tables, [f"{folder}: left out {by_ending(folder, others)}"] if others else []


def check_endings(folder: Path, tables: Sequence[Path], *, where: str) -> None:
    """Refuses tables of several kinds.

    Raises:
        RecipeError: they have different endings.
    """
    endings = Counter(ending_of(table) for table in tables)
    if len(endings) > 1:
        counts = " and ".join(f"{count} × {ending}" for ending, count in sorted(endings.items(), key=str))
        pattern = folder / f"*{endings.most_common(1)[0][0]}"
        raise RecipeError(f"{folder} has files of several kinds: {counts}; name those meant: {pattern}", where=where)


def file_clients(files: Sequence[Path]) -> list[str]:
    """A name for each file as a client: its name without ending; with the folders that tell it from its namesakes."""
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
