"""Bytes that wait on disk: there is no telling how long they wait, or beside how much else they would fill memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fedfm.errors import StorageError


class Spilled:
    """Bytes in a file without a name, which is gone when nobody holds them any more."""

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        """The bytes of all parts, one after the other.

        Raises:
            StorageError: there is no room for them.
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
        """Those of a piece, as of `bytes`.

        Raises:
            StorageError: the disk does not give them back.
        """
        start, stop, _ = piece.indices(self._size)
        with _room():
            self._file.seek(start)
            return self._file.read(stop - start)


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StorageError(f"cannot keep what has to wait in {folder}: {error.strerror or error}") from error
