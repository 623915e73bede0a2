from __future__ import annotations

import socket
import stat
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedfm.errors import StorageError
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, EnvelopeError, Refusal, Replies
from fedfm.spill import Spilled

ANSWER = Envelope(Replies(clients=(("a", None), ("b", None))), (b"x" * 100_000, b""))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def in_a_thread(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()


def test_parcels_arrive_in_order_with_the_node_they_are_for(ends: tuple[socket.socket, socket.socket]) -> None:
    def send() -> None:
        sockets.send(ends[0], ANSWER, name="7")
        sockets.send(ends[0], Envelope(Refusal(reason="no")))
        ends[0].shutdown(socket.SHUT_WR)

    in_a_thread(send)
    assert sockets.receive(ends[1]) == ("7", ANSWER)
    assert sockets.receive(ends[1]) == ("", Envelope(Refusal(reason="no")))
    assert sockets.receive(ends[1]) is None


def test_large_blobs_go_to_disk_where_that_is_asked_for(ends: tuple[socket.socket, socket.socket]) -> None:
    sent = Envelope(ANSWER.head, (b"x" * (sockets.IN_MEMORY + 1), b"y" * sockets.IN_MEMORY))
    in_a_thread(lambda: [sockets.send(ends[0], sent) for _ in range(2)])
    for spill, kinds in ((True, [Spilled, bytes]), (False, [bytes, bytes])):
        _, got = sockets.receive(ends[1], spill=spill) or pytest.fail("nothing came")
        assert [type(blob) for blob in got.blobs] == kinds
        assert (got.head, got.contents) == (sent.head, sent.blobs)


def test_a_head_that_cannot_be_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with pytest.raises(EnvelopeError, match="not an envelope"):
        sockets.receive(ends[1])


def test_hanging_up_in_the_middle_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].sendall(b"\x00\x00\x00\x00")
    ends[0].close()
    with pytest.raises(ConnectionError, match="middle of an envelope"):
        sockets.receive(ends[1])


def test_only_this_user_may_speak(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "socket"
    with sockets.listen(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with sockets.listen(path):  # what an earlier process left is no obstacle
        pass


def test_a_question_is_answered_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def answer() -> None:
        caller, _ = server.accept()
        with caller:
            assert sockets.receive(caller) == ("", Envelope(Refusal(reason="?")))
            sockets.send(caller, ANSWER)
            sockets.send(caller, ANSWER)

    with sockets.listen(path) as server:
        in_a_thread(answer)
        assert list(sockets.ask(path, Envelope(Refusal(reason="?")), patience=5)) == [ANSWER, ANSWER]


def test_one_who_hangs_up_without_an_answer_has_given_none(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def hang_up() -> None:
        caller, _ = server.accept()
        with caller:
            sockets.receive(caller)

    with sockets.listen(path) as server:
        in_a_thread(hang_up)
        with pytest.raises(ConnectionError, match="without an answer"):
            list(sockets.ask(path, Envelope(Refusal(reason="?")), patience=5))


def test_an_absent_server_is_reported_after_the_patience(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sockets.connect(tmp_path / "absent", patience=0)


def test_t17_no_memory_is_taken_for_a_parcel_that_is_too_large(ends: tuple[socket.socket, socket.socket]) -> None:
    large, small = Envelope(ANSWER.head, (bytes(200_000_000), b"")), Envelope(Refusal(reason="no"))

    def send() -> None:
        sockets.send(ends[0], large, name="7")
        sockets.send(ends[0], small)

    tracemalloc.start()
    in_a_thread(send)
    try:
        with pytest.raises(sockets.TooLargeError, match="200,000,000 bytes is over the limit of 100,000"):
            sockets.receive(ends[1], most=lambda name: 100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert sockets.receive(ends[1], most=lambda name: 100_000) == ("", small)


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="use a shorter folder"):
        sockets.listen(tmp_path / ("long" * 20) / ("er" * 20) / "socket")
