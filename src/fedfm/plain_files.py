"""Folders that somebody else may have made: no link in them is followed, and nothing but files and folders is opened.

A folder that is copied, unpacked or shared can hold links to files of whoever works with it, which would be read,
overwritten or deleted, and pipes or devices, which would be waited for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from fedfm.errors import StorageError

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
}
"""Type of an entry → in words."""

SHOWN = 3
"""Entries that an error names."""


def refuse_links(
    folder: Path, *, files: Collection[str] = (), folders: Collection[str] = (), sockets: bool = False
) -> None:
    """Checks that there are only files and folders in a folder, at any depth; none is opened.

    Args:
        folder: may be a link itself: whoever names it chose it.
        files: names in the folder at which there may be a file only.
        folders: names in the folder at which there may be a folder only.
        sockets: whether there may be sockets, too.

    Raises:
        StorageError: there is something else; names it.
    """
    allowed = {stat.S_IFREG, *([stat.S_IFSOCK] if sockets else [])}
    found = [
        *_unusual(folder, allowed),
        *_misplaced(folder, files, stat.S_IFREG),
        *_misplaced(folder, folders, stat.S_IFDIR),
    ]
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise StorageError(
            f"{folder} is not used, because it holds what fedfm does not write: {'; '.join(found[:SHOWN])}{more}. "
            "Remove or replace these, if you know where the folder comes from"
        )


def open_plain(path: Path, flags: int) -> int:
    """A descriptor of a file, or of a folder to read, that is not opened by way of a link.

    Args:
        path: of the file. Its folder is not looked at.
        flags: as of `os.open`; a file that is made is readable and writable as the process's umask says.

    Raises:
        OSError: it cannot be opened.
        StorageError: it is a link or no file; or it would be written, and has another name (a hard link) under which it
            would change too.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(
                f"{path} is a symbolic link, which is not followed: put the file itself there"
            ) from error
        raise
    found = os.fstat(descriptor)
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    if stat.S_ISDIR(found.st_mode) and not writes:
        return descriptor
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise StorageError(f"{path} is {KINDS[stat.S_IFMT(found.st_mode)]}, not a file")
    if writes and found.st_nlink > 1:
        os.close(descriptor)
        raise StorageError(f"{path} has another name (a hard link), and would change there too: copy it")
    return descriptor


def _unusual(folder: Path, allowed: Collection[int]) -> Iterator[str]:
    """What is no folder and of no allowed type, in words."""
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    yield from _unusual(Path(entry.path), allowed)
                elif stat.S_IFMT(mode) not in allowed:
                    yield f"{entry.path!r} is {KINDS.get(stat.S_IFMT(mode), 'of an unknown kind')}"
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}") from error


def _misplaced(folder: Path, names: Collection[str], kind: int) -> Iterator[str]:
    """Names at which there is a file where a folder belongs, or the other way round, in words."""
    for name in names:
        path = folder / name
        found = stat.S_IFMT(path.lstat().st_mode) if os.path.lexists(path) else kind
        if found in {stat.S_IFREG, stat.S_IFDIR} - {kind}:
            yield f"{str(path)!r} is {KINDS[found]}, where {KINDS[kind]} belongs"
