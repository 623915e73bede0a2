"""Bytes that are kept on disk until they are needed, so that many or large updates do not fill the memory."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fedfm.errors import StorageError


class Spilled:
    """Bytes in an unnamed temporary file, which is deleted when the object is no longer referenced."""

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        """Writes the bytes of all parts, one after the other.

        Raises:
            StorageError: the disk is full or cannot be written.
        """
        with _room():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this is held
            weakref.finalize(self, self._file.close)
        self._size = 0
        self.append(parts)

    def append(self, parts: Iterable[bytes | memoryview]) -> None:
        """Adds the bytes of all parts at the end.

        Raises:
            StorageError: the disk is full.
        """
        with _room():
            self._file.seek(self._size)
            self._size += sum(map(self._file.write, parts))
            self._file.flush()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, piece: slice) -> bytes:
        """A slice of the bytes.

        Raises:
            StorageError: they cannot be read.
        """
        start, stop, _ = piece.indices(self._size)
        with _room():
            return _read(self._file.fileno(), start, max(start, stop))


def _read(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes of a file. Its position is not used, since forked processes share it."""
    parts = []
    while start < stop:
        part = os.pread(descriptor, stop - start, start)
        if not part:
            raise OSError(errno.EIO, "the file is shorter than what was written to it")
        parts.append(part)
        start += len(part)
    return b"".join(parts)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StorageError(
            f"cannot keep temporary data in {folder}: {error.strerror or error}; free space there, or set TMPDIR to "
            "another folder"
        ) from error
