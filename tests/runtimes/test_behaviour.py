"""Behaviour of every runtime: all that run in this process, with a worker that does not train."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest

from fedfm.clients import Worker
from fedfm.errors import InterruptedRunError
from fedfm.runtimes.base import Runtime
from fedfm.runtimes.envelopes import Envelope, Prepare, Ready, Requests, job_digest
from fedfm.runtimes.exchanges import read_requests, replies_envelope
from fedfm.runtimes.line import Line
from fedfm.runtimes.local import LocalRuntime
from fedfm.runtimes.nodes import NodesRuntime
from fedfm.runtimes.processes import ProcessRuntime, can_fork
from fedfm.updates import Failure, Reply, Request
from tests.runtimes.test_nodes import Faked

JOB = {"recipe": {}}


@dataclass
class Echo:
    """A worker whose clients reply with their message, and whose state counts.

    Attributes:
        gate: what the client ``slow`` waits for.
        version: of the proxy; a message that is a number leads to that one.
    """

    gate: Any = None
    version: int = 0
    proxy: None = None
    stacking: None = None
    profile: None = None

    @property
    def own(self) -> Echo:
        return self

    @property
    def copy(self) -> Echo:
        return self

    def passes(self, requests: Iterable[Request]) -> list[list[Request]]:
        everyone = list(requests)
        return [everyone[start : start + 2] for start in range(0, len(everyone), 2)]

    def prepare(self, messages: Iterable[bytes]) -> None:
        self.version = max([self.version, *(int(message) for message in messages if message.isdigit())])

    def answer(self, requests: Iterable[Request]) -> Iterator[Reply]:
        for request in requests:
            if request.client == "slow":
                assert self.gate.wait(30)
            if request.client == "fails":
                yield Reply("fails", Failure("fails", "no room", "Traceback", stale=True))
                continue
            state = None if request.state is None else request.state + request.client.encode()
            yield Reply(request.client, b"%s:%d" % (request.message, self.version), state)

    def handle(self, envelope: Envelope) -> Iterator[Envelope]:
        """As a node does."""
        if isinstance(envelope.head, Prepare):
            yield Envelope(Ready(job=job_digest(JOB), clients=None))
        if isinstance(envelope.head, Requests):
            requests, _ = read_requests(envelope.head, envelope.contents)
            for reply in self.answer(requests):
                yield replies_envelope([reply])


def local(worker: Echo, folder: Path) -> Runtime:
    return LocalRuntime(cast(Worker, worker))


def processes(worker: Echo, folder: Path) -> Runtime:
    if not can_fork():
        pytest.skip("this system cannot fork processes that compute")
    return ProcessRuntime(cast(Worker, worker), 2)


def over(line: Line) -> Runtime:
    return NodesRuntime(line, JOB, stack=2, pause=0.0)


def nodes(worker: Echo, folder: Path) -> Runtime:
    def answer(envelope: Envelope) -> list[Envelope]:
        return list(worker.handle(envelope))

    return over(Faked(one=answer, two=answer))


def grid(worker: Echo, folder: Path) -> Runtime:
    if find_spec("flwr") is None:
        pytest.skip("the extra `flower` is not installed")
    from fedfm.runtimes.flower.apps import make_client_app, relay
    from fedfm.runtimes.flower.in_process import InProcessGrid
    from fedfm.runtimes.relay import RelayLine

    line = RelayLine(folder / "relay", nodes=2, patience=10, deadline=60)
    there = InProcessGrid(make_client_app(lambda context: worker.handle), [{}, {}])

    def carry() -> None:
        with suppress(OSError):  # the test may end before a node has answered
            relay(there, line.path, poll=0.0)

    threading.Thread(target=carry, daemon=True).start()
    return over(line)


RUNTIMES = [local, processes, nodes, grid]
WAITING = [processes, grid]
"""Those whose clients work while `next` waits."""

Make = Callable[[Echo, Path], Runtime]


@pytest.fixture(params=RUNTIMES, ids=lambda make: make.__name__)
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    with closing(request.param(Echo(), tmp_path)) as runtime:
        yield runtime


def asked(*clients: str, message: bytes = b"m") -> list[Request]:
    return [Request(client, message) for client in clients]


def rest(runtime: Runtime) -> dict[str, Reply]:
    """All replies that are still to come."""
    found: dict[str, Reply] = {}
    while (reply := runtime.next()) is not None:
        assert reply.client not in found
        found[reply.client] = reply
    return found


def test_every_request_gets_its_reply(runtime: Runtime) -> None:
    for message in (b"first", b"second"):
        runtime.submit([*asked(*"abcde", message=message), Request("f", b"its own")])
        found = {client: reply.content for client, reply in rest(runtime).items()}
        assert found == {**dict.fromkeys("abcde", message + b":0"), "f": b"its own:0"}
    assert runtime.next() is None


def test_a_client_gets_its_own_state_back(runtime: Runtime) -> None:
    states = {"a": b"v", "b": b"w", "c": b"x", "d": b"\0"}
    requests = [Request(client, b"m", state) for client, state in states.items()]
    runtime.submit([*requests, Request("none", b"m"), Request("empty", b"m", b""), Request("fails", b"m", b"kept")])
    found = {client: reply.state for client, reply in rest(runtime).items()}
    assert found == {"a": b"va", "b": b"wb", "c": b"xc", "d": b"\0d", "none": None, "empty": b"empty", "fails": None}


def test_a_failure_is_one_clients(runtime: Runtime) -> None:
    runtime.submit(asked("a", "fails", "b"))
    found = rest(runtime)
    assert found.pop("fails").content == Failure("fails", "no room", "Traceback", stale=True)
    assert {client: reply.content for client, reply in found.items()} == dict.fromkeys("ab", b"m:0")


def test_more_can_be_submitted_while_replies_are_outstanding(runtime: Runtime) -> None:
    runtime.submit(asked(*"abcd", message=b"first"))
    early = runtime.next()
    assert early is not None
    runtime.submit(asked(*"efg", message=b"second"))
    runtime.submit(asked(early.client, message=b"third"))
    found = {client: reply.content for client, reply in rest(runtime).items()}
    first = {client: b"first:0" for client in "abcd" if client != early.client}
    assert found == {**first, **dict.fromkeys("efg", b"second:0"), early.client: b"third:0"}


def test_what_is_dropped_is_never_replied_to(runtime: Runtime) -> None:
    runtime.submit(asked(*"abcd", message=b"old"))
    assert runtime.next() is not None
    runtime.drop()
    assert runtime.next() is None
    runtime.submit(asked(*"dcba", message=b"new"))
    assert {client: reply.content for client, reply in rest(runtime).items()} == dict.fromkeys("abcd", b"new:0")
    runtime.drop()  # nothing


def test_a_client_has_one_request_at_a_time(runtime: Runtime) -> None:
    runtime.submit(asked("a"))
    with pytest.raises(ValueError, match="client a has an outstanding request"):
        runtime.submit(asked("b", "a"))
    with pytest.raises(ValueError, match="client c has an outstanding request"):
        runtime.submit(asked("c", "c"))
    assert list(rest(runtime)) == ["a"]
    runtime.submit([])
    assert runtime.next(timeout=10) is None, "nothing is outstanding"


@pytest.mark.parametrize("make", WAITING, ids=lambda make: make.__name__)
def test_a_timeout_ends_the_waiting_and_loses_nothing(make: Make, tmp_path: Path) -> None:
    gate = multiprocessing.get_context("fork").Event()
    with closing(make(Echo(gate), tmp_path)) as runtime:
        runtime.submit(asked("slow"))
        assert runtime.next(timeout=0.05) is None
        assert runtime.next(timeout=0.0) is None
        gate.set()
        assert list(rest(runtime)) == ["slow"]


@pytest.mark.parametrize("make", WAITING, ids=lambda make: make.__name__)
def test_a_check_may_end_the_waiting(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise InterruptedRunError("stopped")

    monkeypatch.setattr(f"fedfm.runtimes.{'processes' if make is processes else 'relay'}.LOOK", 0.01)
    gate = multiprocessing.get_context("fork").Event()
    with closing(make(Echo(gate), tmp_path)) as runtime:
        runtime.submit(asked("slow"))
        runtime.attend(stop)
        with pytest.raises(InterruptedRunError):
            runtime.next()
        gate.set()
        runtime.drop()


def test_an_idle_process_starts_at_once(tmp_path: Path) -> None:
    gate = multiprocessing.get_context("fork").Event()
    with closing(processes(Echo(gate), tmp_path)) as runtime:
        runtime.submit(asked("slow"))
        runtime.submit(asked(*"abcdef"))
        first: Sequence[Reply | None] = [runtime.next() for _ in range(6)]
        assert sorted(reply.client for reply in first if reply) == list("abcdef")
        gate.set()
        assert list(rest(runtime)) == ["slow"]


def test_a_process_with_an_older_proxy_is_replaced_when_it_is_idle(tmp_path: Path) -> None:
    gate = multiprocessing.get_context("fork").Event()
    with closing(processes(Echo(gate), tmp_path)) as runtime:
        runtime.submit(asked("slow", message=b"1"))
        runtime.submit(asked("a", message=b"1"))
        assert runtime.next() == Reply("a", b"1:1")
        runtime.submit(asked("a", message=b"2"))
        assert runtime.next() == Reply("a", b"2:2")
        gate.set()
        assert runtime.next() == Reply("slow", b"1:1")
        runtime.submit(asked("slow", "a", message=b"2"))
        assert {reply.content for reply in rest(runtime).values()} == {b"2:2"}


def test_sites_keep_their_state(tmp_path: Path) -> None:
    runtime = NodesRuntime(Faked(), JOB, stack=1, own_data=True)
    with pytest.raises(ValueError, match="client a keeps its state itself"):
        runtime.submit([Request("a", b"m", b"state")])
    assert (runtime.remote, runtime.keeps_state) == (True, True)
    assert not local(Echo(), tmp_path).keeps_state
