"""A node and its callers: callers that ask what has arrived, and callers that disconnect."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from fedfm.hosts.node import Node
from fedfm.hosts.resident import accepted, serve
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Inquiry, Ready, Refusal, Replies, Requests, Seen

WORK, READY = Envelope(Requests(job="j", clients=())), Envelope(Ready(job="j", clients=None))
END = Envelope(Refusal(reason="end"))
LARGE = Envelope(Replies(clients=(("c", None),)), (bytes(20_000_000),))
PATIENCE = 60.0


class Faked:
    """A site that does what the test says.

    Attributes:
        work: its answer to anything.
        threads: that it has worked in.
    """

    def __init__(self) -> None:
        self.work: Callable[[], Envelope] = lambda: READY
        self.threads = list[threading.Thread]()

    def handle(self, envelope: Envelope) -> Iterator[Envelope]:
        if envelope == END:
            raise SystemExit  # as when it is told to
        self.threads.append(threading.current_thread())
        yield self.work()

    def seconds(self, envelope: Envelope) -> float:
        return PATIENCE

    def rest(self) -> None:
        raise AssertionError("it has no time to rest")


def started(path: Path, site: Faked) -> threading.Thread:
    def run() -> None:
        with suppress(SystemExit):
            serve(accepted(path), cast(Node, site))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker"


@pytest.fixture
def site(path: Path) -> Iterator[Faked]:
    site = Faked()
    thread = started(path, site)
    yield site
    with suppress(ConnectionError):
        asked(path, END)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert set(site.threads) <= {thread}


def asked(path: Path, envelope: Envelope, name: str = "") -> list[Envelope]:
    return list(sockets.ask(path, envelope, patience=PATIENCE, name=name))


def seen(path: Path, message: str) -> list[Envelope]:
    return asked(path, Envelope(Inquiry(message=message)), "question")


def test_it_says_what_has_come(site: Faked, path: Path) -> None:
    assert seen(path, "one") == [Envelope(Seen(seen=False))]
    for _ in range(2):
        assert asked(path, WORK, "one") == [READY]
    assert seen(path, "one") == [Envelope(Seen(seen=True))]
    assert seen(path, "question") == [Envelope(Seen(seen=False))]  # which is none of it
    assert len(site.threads) == 2  # and no work


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x00\x00\x00\x00"])
def test_a_caller_that_says_nothing_sound_is_not_the_last(words: bytes, site: Faked, path: Path) -> None:
    with sockets.connect(path, patience=PATIENCE) as caller:
        caller.sendall(words)
    assert asked(path, WORK) == [READY]


def test_a_caller_that_hangs_up_is_not_the_last(site: Faked, path: Path) -> None:
    begun, gone = threading.Event(), threading.Event()

    def work() -> Envelope:
        begun.set()
        assert gone.wait(PATIENCE)
        return LARGE

    site.work = work
    with sockets.connect(path, patience=PATIENCE) as caller:
        sockets.send(caller, WORK)
        assert begun.wait(PATIENCE)
    site.work = lambda: READY
    gone.set()
    assert asked(path, WORK) == [READY]
    assert len(site.threads) == 2


def test_it_rests_when_nobody_has_work_for_it(path: Path) -> None:
    rested = list[int]()

    class Resting(Faked):
        def rest(self) -> None:
            rested.append(1)
            if len(rested) == 2:
                raise SystemExit

    with pytest.raises(SystemExit):
        serve(accepted(path, idle=0.01), cast(Node, Resting()))
    assert len(rested) == 2


def test_it_ends_when_it_can_hear_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sockets, "receive", fails)

    def call() -> None:
        sockets.connect(path, patience=PATIENCE).close()

    threading.Thread(target=call, daemon=True).start()
    with pytest.raises(MemoryError):
        serve(accepted(path, idle=PATIENCE), cast(Node, Faked()))
