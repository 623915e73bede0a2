"""Clients trained in several processes of this machine, which share the memory of backbone and data.

Each process is a fork of this one: memory that it does not write (the frozen backbone) exists once. A process gets
whole passes of clients, as bytes, and sends bytes back. Which process trains a pass, and when, does not change the
result: what a client keeps between rounds travels with its request and its reply, and never stays in a process.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

import torch

from fedfm.clients import Profile, Workers
from fedfm.clients.memory import keep_for_reuse
from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.base import LOOK, Simulated, refuse_repeats
from fedfm.updates import Failure, Reply, Request, Spent

AHEAD = 4
"""Passes, times processes, that may be dealt beyond the first unfinished one: their updates wait to be folded."""


@dataclass(eq=False)
class _Child:
    """A process that trains.

    Attributes:
        process: the fork.
        pipe: to and from it.
        version: of the proxy that it was forked with.
        clients: that it is training and has not answered for.
        number: of their pass.
    """

    process: ForkProcess
    pipe: Connection
    version: int
    clients: set[str] = field(default_factory=set)
    number: int = 0


@dataclass(frozen=True)
class _Pass:
    """Clients that are trained together.

    Attributes:
        requests: of these clients.
        messages: of everything that was submitted with them: they bring the shared proxy up to date.
    """

    requests: Sequence[Request]
    messages: tuple[bytes, ...]


class ProcessRuntime(Simulated):
    """Deals passes to processes as these become idle; replies come in nearly the order of the requests.

    That order keeps few updates waiting to be folded, however large the cohort is.

    Processes are forked when there is something to train, with one thread each, and live until `close`. One that holds
    an older proxy than its next pass needs is replaced.
    """

    def __init__(self, worker: Workers, processes: int) -> None:
        """A runtime of ``processes`` processes, on a machine that can fork."""
        if worker.own.stacking is not None:  # as a worker does: this process evaluates as large steps as they train
            keep_for_reuse()
        self.worker = worker
        self.processes = processes
        self._children: list[_Child] = []
        self._waiting = deque[_Pass]()
        self._arrived = deque[Reply]()
        self._dealt = 0
        self._checks: list[Callable[[], None]] = []

    def submit(self, requests: Sequence[Request]) -> None:
        """As `Runtime.submit`; idle processes begin at once."""
        refuse_repeats(self._outstanding(), requests)
        messages = tuple({id(request.message): request.message for request in requests}.values())
        self._waiting += [_Pass(together, messages) for together in self.worker.passes(requests)]
        self._deal()

    def next(self, timeout: float | None = None) -> Reply | None:
        """As `Runtime.next`."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._arrived:
            self._deal()
            busy = {child.pipe: child for child in self._children if child.clients}
            left = LOOK if end is None else max(0.0, end - time.monotonic())
            ready = wait(list(busy), min(LOOK, left)) if busy else []
            for pipe in ready:
                self._take(busy[pipe])  # type: ignore[index]
            if not busy or (not ready and end is not None and time.monotonic() >= end):
                break
            for check in () if ready else self._checks:
                check()
        return self._arrived.popleft() if self._arrived else None

    def drop(self) -> None:
        """As `Runtime.drop`: ends the processes that are training."""
        self._waiting.clear()
        self._arrived.clear()
        self._end([child for child in self._children if child.clients])

    def share(self, clients: Sequence[str], version: ModelVersion) -> None:
        """As `Runtime.share`: the clients share one proxy, which thus is at the latest version that any of them has."""
        if clients:
            self.worker.own.copy.download(version)

    def attend(self, check: Callable[[], None]) -> None:
        """As `Runtime.attend`."""
        self._checks.append(check)

    def close(self) -> None:
        """Ends all processes."""
        self.drop()
        self._end(self._children)

    def _outstanding(self) -> set[str]:
        waiting = {request.client for each in self._waiting for request in each.requests}
        training = set[str]().union(*(child.clients for child in self._children))
        return waiting | training | {reply.client for reply in self._arrived}

    def _deal(self) -> None:
        """Gives passes to idle processes, and forks as many as there are passes for."""
        while self._waiting and self._dealt - self._oldest() < AHEAD * self.processes:
            idle = next((child for child in self._children if not child.clients), None)
            if idle is None and len(self._children) == self.processes:
                return
            self.worker.prepare(self._waiting[0].messages)  # a fork holds the proxy as it is here
            if idle is None:
                self._children.append(idle := self._fork())
            elif idle.version != self.worker.own.version or not idle.process.is_alive():
                idle = self._replaced(idle)
            idle.number = self._dealt
            self._dealt += 1
            self._ask(idle, self._waiting.popleft().requests)

    def _oldest(self) -> int:
        """The number of the first pass that is still trained."""
        return min((child.number for child in self._children if child.clients), default=self._dealt)

    def _ask(self, child: _Child, requests: Sequence[Request]) -> None:
        """Sends a pass: a line of JSON, each message that differs, then the states."""
        messages = {id(request.message): request.message for request in requests}
        places = {key: place for place, key in enumerate(messages)}
        child.clients = {request.client for request in requests}
        head = [[request.client, places[id(request.message)], request.state is not None] for request in requests]
        with suppress(ConnectionError):  # the process has ended, which `_take` finds
            child.pipe.send_bytes(json.dumps(head).encode())
            for message in messages.values():
                child.pipe.send_bytes(message)
            for request in requests:
                if request.state is not None:
                    child.pipe.send_bytes(request.state)

    def _take(self, child: _Child) -> None:
        """Receives one reply, or failures in place of a process that has ended."""
        try:
            reply = self._receive(child.pipe)
        except (EOFError, ConnectionError):
            self._bury(child)
        else:
            child.clients.remove(reply.client)
            self._arrived.append(reply)

    def _receive(self, pipe: Connection) -> Reply:
        """One reply; the times that were booked for it are added to the worker's profile."""
        head = json.loads(pipe.recv_bytes())
        if self.worker.profile is not None:
            self.worker.profile.add(head["profile"])
        failure = head["failure"]
        content = pipe.recv_bytes() if failure is None else Failure(**failure)
        spent = None if head["spent"] is None else Spent(**head["spent"])
        return Reply(head["client"], content, pipe.recv_bytes() if head["has_state"] else None, spent)

    def _bury(self, child: _Child) -> None:
        """Fails the clients of a process that has ended; the next pass gets another."""
        child.process.join()
        code = child.process.exitcode or 0
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        reason = f"its process ended {how}; if memory ran out, lower runtime.processes or runtime.stack"
        self._arrived += [Reply(client, Failure(client, reason)) for client in sorted(child.clients)]
        self._end([child])

    def _replaced(self, child: _Child) -> _Child:
        """Another process in the place of one that has ended, or that holds an older proxy."""
        self._end([child])
        self._children.append(new := self._fork())
        return new

    def _end(self, children: Iterable[_Child]) -> None:
        ended = list(children)
        for child in ended:
            child.process.terminate()
            child.pipe.close()
        for child in ended:
            child.process.join()
        self._children = [child for child in self._children if child not in ended]

    def _fork(self) -> _Child:
        mine, theirs = multiprocessing.Pipe()
        others = [mine, *(child.pipe for child in self._children)]
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, others, self.worker), daemon=True
        )
        process.start()
        theirs.close()
        return _Child(process, mine, self.worker.own.version)


def can_fork() -> bool:
    """Whether this machine can fork a process that computes: Linux, and no accelerator whose threads torch started."""
    linux = "fork" in multiprocessing.get_all_start_methods() and os.uname().sysname == "Linux"
    return linux and not torch.accelerator.is_available()


def _serve(pipe: Connection, others: Sequence[Connection], worker: Workers) -> None:
    """The work of a process: trains the passes that come until the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGHUP):  # these reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a live display's lock may have been held at the fork
    for other in others:
        other.close()
    torch.set_num_threads(1)
    if worker.profile is not None:
        worker = worker.with_profile(Profile())
    with suppress(EOFError, ConnectionError):
        while True:
            head = json.loads(pipe.recv_bytes())
            messages = [pipe.recv_bytes() for _ in range(1 + max(place for _, place, _ in head))]
            requests = [
                Request(client, messages[place], pipe.recv_bytes() if has_state else None)
                for client, place, has_state in head
            ]
            for reply in worker.answer(requests):
                _send(pipe, worker, reply)


def _send(pipe: Connection, worker: Workers, reply: Reply) -> None:
    """Sends one reply: a line of JSON, then the update's bytes, if any, and the client's state, if any."""
    head = {
        "client": reply.client,
        "failure": asdict(reply.content) if isinstance(reply.content, Failure) else None,
        "has_state": reply.state is not None,
        "spent": asdict(reply.spent) if reply.spent else None,
        "profile": worker.profile.take() if worker.profile else None,
    }
    pipe.send_bytes(json.dumps(head).encode())
    if not isinstance(reply.content, Failure):
        pipe.send_bytes(reply.content[:])
    if reply.state is not None:
        pipe.send_bytes(reply.state)
