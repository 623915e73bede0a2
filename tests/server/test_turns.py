"""Updates are folded in their turn, whenever they arrive, and wait for it on disk where they are large."""

from __future__ import annotations

import errno
import itertools
import tempfile
from typing import IO

import pytest

from fedfm.errors import StorageError
from fedfm.server.turns import IN_MEMORY, Turns
from fedfm.updates import Failure

LARGE = {client: client.encode() * (IN_MEMORY + 1) for client in "abc"}


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_they_come_in_the_order_in_which_they_were_asked(order: tuple[str, ...]) -> None:
    turns = Turns("abc", as_they_come=False)
    answers = {"a": LARGE["a"], "b": b"small", "c": Failure("c", "ill")}
    found = [pair for client in order for pair in turns.after(client, answers[client])]
    assert found == [(client, answers[client]) for client in "abc"]
    assert list(turns.left()) == []


def test_those_that_wait_for_one_that_never_comes_are_left() -> None:
    turns = Turns("abc", as_they_come=False)
    assert [*turns.after("c", LARGE["c"]), *turns.after("b", LARGE["b"])] == []
    assert list(turns.left()) == [("a", None), ("b", LARGE["b"]), ("c", LARGE["c"])]


def test_where_the_first_are_enough_nobody_waits() -> None:
    turns = Turns("abc", as_they_come=True)
    assert [*turns.after("c", LARGE["c"]), *turns.after("a", b"a")] == [("c", LARGE["c"]), ("a", b"a")]
    assert list(turns.left()) == [("b", None)]


def test_large_ones_wait_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    files = []

    def opened() -> IO[bytes]:
        files.append(make())
        return files[-1]

    make = tempfile.TemporaryFile
    monkeypatch.setattr("tempfile.TemporaryFile", opened)
    turns = Turns("abc", as_they_come=False)
    assert [*turns.after("b", LARGE["b"]), *turns.after("c", b"small")] == []
    assert len(files) == 1
    assert dict(turns.after("a", LARGE["a"])) == {"a": LARGE["a"], "b": LARGE["b"], "c": b"small"}
    assert files[0].closed


def test_without_room_for_them_the_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> IO[bytes]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(StorageError, match=f"cannot keep an update in {tempfile.gettempdir()}: No space left"):
        list(Turns("ab", as_they_come=False).after("b", LARGE["b"]))
