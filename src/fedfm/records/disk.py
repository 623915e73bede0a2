"""Writing that survives a crash, and errors of the disk as messages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fedfm.errors import StorageError
from fedfm.plain_files import open_plain
from fedfm.private import private


def normal(path: Path | str) -> Path:
    """A path without `~`, `..` and `.`, for messages and records; a relative path stays relative."""
    return Path(os.path.normpath(Path(path).expanduser()))


@contextmanager
def storage(path: Path, deed: str) -> Iterator[None]:
    """Turns an error of the operating system inside the block into one line: what failed, where, and why.

    Files that are written inside the block are readable by their owner only.

    Raises:
        StorageError: the block raised OSError, or the SafetensorError in which safetensors wraps it.
    """
    try:
        with private():
            yield
    except OSError as error:
        raise StorageError(f"cannot {deed} {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise StorageError(f"cannot {deed} {path}: {error}") from error


def replace_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file in one step: after a crash the file is complete, in its old or its new version.

    Raises:
        StorageError: it cannot be written; the old file is unchanged.
    """
    beside = path.with_name(f".{path.name}.partial")
    with storage(path, "write"):
        try:
            beside.unlink(missing_ok=True)  # left by a process that was killed
            with beside.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``path``; after the block it replaces ``path``, synced to disk.

    Raises:
        StorageError: the block or the replacement failed on the disk; ``path`` is unchanged.
    """
    beside, before = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.before")
    with storage(path, "write"):
        _settle(path, before)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            yield beside
            for written in beside.rglob("*"):
                sync(written)
            sync(beside)
            if path.exists():
                path.rename(before)
            beside.rename(path)
            sync(path.parent)
        finally:
            _settle(path, before)
            shutil.rmtree(beside, ignore_errors=True)


def _settle(path: Path, before: Path) -> None:
    """Ends a replacement: removes the old folder, or restores it where the new folder is missing."""
    if before.exists() and not path.exists():
        before.rename(path)
    shutil.rmtree(before, ignore_errors=True)


def synced_size(path: Path) -> int:
    """The size of a file in bytes, after all of them were forced to disk; 0 for a missing file.

    Raises:
        StorageError: they cannot be forced to disk.
    """
    with storage(path, "read"):
        try:
            sync(path)
            return path.stat().st_size
        except FileNotFoundError:
            return 0


def sync(path: Path) -> None:
    """Forces a file, or the entries of a folder, to disk."""
    descriptor = open_plain(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
