"""The server's end of a relay that answers late, disconnects, and returns."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedfm.errors import InterruptedRunError, TooFewClientsError
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, Lost, Nodes, Ready, Refusal, Replies, Requests
from fedfm.runtimes.line import Part
from fedfm.runtimes.relay import RelayLine, Wait

GONE = Envelope(Lost(reason="the relay to the nodes is gone"))
LATE = Envelope(Lost(reason="no answer within 0.1 seconds", late=True))
ASKED, READY = Envelope(Refusal(reason="?")), Envelope(Ready(job="j", clients=None))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[RelayLine]:
    line = RelayLine(tmp_path / "socket", nodes=2, patience=60, deadline=None)
    yield line
    line.close()


def relay(line: RelayLine, work: Callable[[socket.socket], object]) -> threading.Thread:
    """Somebody who connects, says that two nodes are there, and does the work."""

    def run() -> None:
        with sockets.connect(line.path, patience=60) as server:
            sockets.send(server, Envelope(Nodes(nodes=("1",))))
            sockets.send(server, Envelope(Nodes(nodes=("1", "2"))))
            work(server)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def take(server: socket.socket) -> str:
    """The name of the next envelope, under which its answer goes back."""
    got = sockets.receive(server)
    assert got is not None
    return got[0]


def answers(line: RelayLine, envelopes: dict[str, Envelope], *, within: float | None = None) -> dict[str, Envelope]:
    """What nodes answer, all that are asked."""
    for node, envelope in envelopes.items():
        line.push(node, envelope, most=100, within=within)
    found: dict[str, Envelope] = {}
    while (part := line.pull()) is not None:
        assert part.last
        found[part.node] = part.envelope
    return found


def echo(server: socket.socket) -> None:
    while (got := sockets.receive(server)) is not None:
        sockets.send(server, READY, name=got[0])


def test_it_waits_for_all_nodes_and_brings_their_answers(line: RelayLine) -> None:
    relay(line, echo)
    assert line.nodes() == ("1", "2")
    assert answers(line, {"1": ASKED, "2": ASKED}) == {"1": READY, "2": READY}


class Telling(RelayLine):
    """A line that notes whom it waits for."""

    waits: tuple[Wait, ...] = ()

    def on_wait(self, wait: Wait) -> None:
        self.waits += (wait,)


def test_it_says_who_is_waited_for_and_for_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfm.runtimes.relay.REMIND", 0.05)
    line = Telling(tmp_path / "telling", nodes=3, patience=0.3, deadline=None)
    line.names = {"1": "clinic", "2": "ward", "3": "lab"}
    relay(line, echo)
    assert line.nodes() == ("clinic", "ward")
    assert {wait.what for wait in line.waits} == {"come"}
    assert line.waits[-1].nodes == ("lab",)
    assert 0 < line.waits[-1].seconds < 0.3
    line.close()


def test_it_says_whose_answers_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedfm.runtimes.relay.REMIND", 0.05)
    line = Telling(tmp_path / "telling", nodes=2, patience=60, deadline=None)
    waited = threading.Event()
    relay(line, lambda server: [name := take(server), waited.wait(60), sockets.send(server, READY, name=name)])
    line.nodes()
    line.waits = ()

    def told(wait: Wait) -> None:
        Telling.on_wait(line, wait)
        waited.set()

    monkeypatch.setattr(line, "on_wait", told)
    assert answers(line, {"1": ASKED}) == {"1": READY}
    assert line.waits[0] == Wait("answer", ("1",), float("inf"))
    assert answers(line, {"1": ASKED}, within=0.1)["1"].head.kind == "lost"
    line.close()


def test_t03_who_does_not_answer_in_time_is_named(tmp_path: Path) -> None:
    line = RelayLine(tmp_path / "other", nodes=2, patience=60, deadline=0.1)
    relay(line, lambda server: [sockets.receive(server) for _ in range(3)])
    line.nodes()
    assert answers(line, {"1": ASKED, "2": ASKED}) == dict.fromkeys("12", LATE)
    line.close()


def test_t03_t13_an_answer_that_is_not_waited_for_any_more_is_not_taken_for_another(line: RelayLine) -> None:
    def late(server: socket.socket) -> None:
        first = take(server)
        take(server)
        sockets.send(server, READY, name=first)

    relay(line, late)
    line.nodes()
    line.push("1", ASKED, most=100)
    line.drop()
    assert answers(line, {"1": ASKED}) == {"1": GONE}


def test_what_is_pushed_while_others_are_waited_for_goes_out_at_once(line: RelayLine) -> None:
    def out_of_order(server: socket.socket) -> None:
        first = take(server)
        sockets.send(server, READY, name=take(server))
        sockets.send(server, READY, name=take(server))
        sockets.send(server, ASKED, name=first)
        sockets.receive(server)

    relay(line, out_of_order)
    line.nodes()
    line.push("1", ASKED, most=100)
    line.push("2", ASKED, most=100)
    assert line.pull() == Part("2", READY)
    assert line.pull(timeout=0.0) is None
    line.push("2", ASKED, most=100)
    assert line.pull() == Part("2", READY)
    assert line.pull() == Part("1", ASKED)
    assert line.pull() is None


def test_a_relay_that_goes_may_come_back(line: RelayLine) -> None:
    relay(line, lambda server: sockets.receive(server))
    line.nodes()
    assert answers(line, {"1": ASKED}) == {"1": GONE}
    relay(line, echo)
    assert line.nodes() == ("1", "2")
    assert answers(line, {"1": ASKED}) == {"1": READY}


def test_it_stops_waiting_when_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    def gone() -> None:
        raise TooFewClientsError("the superlink ended")

    line = RelayLine(tmp_path / "other", nodes=1, patience=60, deadline=None, check=gone)
    with pytest.raises(TooFewClientsError, match="superlink"):
        line.nodes()
    line.close()


def test_only_the_relay_itself_knows_who_is_there(line: RelayLine) -> None:
    def forger(server: socket.socket) -> None:
        sockets.send(server, forged, name=take(server))
        sockets.receive(server)

    forged = Envelope(Nodes(nodes=("1",)))
    relay(line, forger)
    line.nodes()
    assert answers(line, {"1": ASKED}) == {"1": forged}  # an answer like any other that was not asked for
    assert line.nodes() == ("1", "2")


def test_it_takes_what_comes_late_while_it_still_sends(line: RelayLine) -> None:
    large = Envelope(Replies(clients=(("c", None),)), (bytes(20_000_000),))

    def late(server: socket.socket) -> None:
        sockets.send(server, large, name="1 0")  # of an earlier round: it is not waited for
        echo(server)

    relay(line, late)
    line.nodes()
    work = Envelope(Requests(job="j", clients=()), (bytes(20_000_000),))
    assert answers(line, {"2": work}) == {"2": READY}


def test_who_has_enough_leaves_the_line_in_order(line: RelayLine) -> None:
    relay(line, echo)
    line.nodes()
    large = Envelope(Requests(job="j", clients=()), (bytes(20_000_000),))
    for _ in range(2):
        line.push("1", ASKED, most=100)
        line.push("2", large, most=100)
        assert line.pull() == Part("1", READY)
        line.drop()
    assert answers(line, {"1": ASKED}) == {"1": READY}


def test_who_attends_may_end_the_waiting(line: RelayLine) -> None:
    def stop() -> None:
        raise InterruptedRunError("stopped")

    relay(line, lambda server: [sockets.receive(server) for _ in range(9)])
    line.nodes()
    line.attend(stop)
    with pytest.raises(InterruptedRunError):
        answers(line, {"1": ASKED})


def test_news_that_a_node_has_gone_is_heard_before_it_is_counted(line: RelayLine) -> None:
    told = threading.Event()

    def losing(server: socket.socket) -> None:
        sockets.send(server, READY, name=take(server))
        sockets.send(server, Envelope(Nodes(nodes=("1",))))
        sockets.send(server, Envelope(Nodes(nodes=("1", "2", "3"))))
        told.set()
        sockets.receive(server)

    relay(line, losing)
    line.nodes()
    assert answers(line, {"1": ASKED}) == {"1": READY}
    assert told.wait(60)
    assert line.nodes() == ("1", "2", "3")


def test_t17_an_answer_over_the_limit_is_refused_and_the_next_one_taken(line: RelayLine) -> None:
    large, small = (Envelope(Replies(clients=(("c", None),)), (bytes(size),)) for size in (101, 100))

    def both(server: socket.socket) -> None:
        sockets.send(server, large, name=take(server))
        sockets.send(server, small, name=take(server))
        sockets.receive(server)

    relay(line, both)
    line.nodes()
    refused = Envelope(Refusal(reason="its answer of 101 bytes is over the limit of 100"))
    assert answers(line, {"1": ASKED, "2": ASKED}) == {"1": refused, "2": small}
