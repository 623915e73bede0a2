"""Bytes that wait on disk: there is no telling how long they wait, or beside how much else they would fill memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fedfm.errors import StorageError


class Spooled:
    """Bytes in a file without a name, which is gone when nobody holds them any more."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        """The bytes of all parts, one after the other.

        Raises:
            StorageError: there is no room for them.
        """
        with _room():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this is held
            self._size = sum(map(self._file.write, parts))
            self._file.flush()

    def __len__(self) -> int:
        return self._size

    def read(self) -> bytes:
        """All of them.

        Raises:
            StorageError: the disk does not give them back.
        """
        with _room():
            self._file.seek(0)
            return self._file.read()


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StorageError(f"cannot keep what has to wait in {folder}: {error.strerror or error}") from error
