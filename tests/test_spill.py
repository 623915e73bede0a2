"""Bytes that wait on disk."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import IO

import pytest

from fedfm.errors import StorageError
from fedfm.spill import Spilled


def test_they_are_those_of_all_parts() -> None:
    there = Spilled([b"ab", b"", b"cdef"])
    assert (len(there), there[:], there[1:4], there[4:99], there[7:9]) == (6, b"abcdef", b"bcd", b"ef", b"")


def test_the_file_goes_with_its_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    files = []

    def opened() -> IO[bytes]:
        files.append(make())
        return files[-1]

    make = tempfile.TemporaryFile
    monkeypatch.setattr("tempfile.TemporaryFile", opened)
    there = Spilled([b"x"])
    assert not files[0].closed
    del there
    assert files[0].closed


def test_reading_leaves_the_position_of_the_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked processes share it: with it, one would read at the place of another."""
    files = []

    def opened() -> IO[bytes]:
        files.append(make())
        return files[-1]

    make = tempfile.TemporaryFile
    monkeypatch.setattr("tempfile.TemporaryFile", opened)
    there = Spilled([b"abcdef"])
    before = os.lseek(files[0].fileno(), 0, os.SEEK_CUR)
    assert there[1:4] == b"bcd"
    assert os.lseek(files[0].fileno(), 0, os.SEEK_CUR) == before
    there.append([b"gh"])
    assert there[4:] == b"efgh"


def test_without_room_for_them_the_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> IO[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(StorageError, match=f"cannot keep temporary data in {tempfile.gettempdir()}: No space left"):
        Spilled([b"x"])
