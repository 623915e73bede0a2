"""Access to folders from untrusted sources: symbolic links are not followed, and only files and folders are opened.

A folder that was copied, unpacked or shared can contain links to files of its user, which would be read, overwritten or
deleted. It can also contain pipes or devices, on which a read would block.
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
"""Type of an entry → its description."""

SHOWN = 3
"""Number of entries that an error names."""


def refuse_links(
    folder: Path, *, files: Collection[str] = (), folders: Collection[str] = (), sockets: bool = False
) -> None:
    """Checks that a folder contains only files and folders, at any depth. No entry is opened.

    Args:
        folder: may itself be a link, since the user has named it.
        files: names in the folder that must be files if they exist.
        folders: names in the folder that must be folders if they exist.
        sockets: whether sockets are allowed.

    Raises:
        StorageError: the folder contains something else; the message names it.
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
            f"{folder} is not used, because it contains entries that fedfm does not write: "
            f"{'; '.join(found[:SHOWN])}{more}. If you trust the source of the folder, remove or replace them"
        )


def open_plain(path: Path, flags: int) -> int:
    """Opens a file, or a folder for reading, without following a link, and returns the descriptor.

    Args:
        path: of the file. The folders above it are not checked.
        flags: as for `os.open`; the process's umask decides the permissions of a new file.

    Raises:
        OSError: the file cannot be opened.
        StorageError: the path is a symbolic link or not a file, or a file to be written has several hard links.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(
                f"{path} is a symbolic link, and links are not followed: replace it with the file itself"
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
        raise StorageError(f"{path} has several hard links, and writing would change all of them: replace it by a copy")
    return descriptor


def _unusual(folder: Path, allowed: Collection[int]) -> Iterator[str]:
    """Describes the entries, at any depth, that are neither folders nor of an allowed type."""
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    yield from _unusual(Path(entry.path), allowed)
                elif stat.S_IFMT(mode) not in allowed:
                    yield f"{entry.path!r} is {KINDS.get(stat.S_IFMT(mode), 'of an unknown type')}"
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}") from error


def _misplaced(folder: Path, names: Collection[str], kind: int) -> Iterator[str]:
    """Describes the files where a folder is expected, or the folders where a file is expected."""
    for name in names:
        path = folder / name
        found = stat.S_IFMT(path.lstat().st_mode) if os.path.lexists(path) else kind
        if found in {stat.S_IFREG, stat.S_IFDIR} - {kind}:
            yield f"{str(path)!r} is {KINDS[found]}, but must be {KINDS[kind]}"
