"""Clients trained in several processes of this machine, which share the memory of backbone and data.

Each process is a fork of this one: what it does not write (the frozen backbone) exists once. It gets whole passes of
clients, as bytes, and sends bytes back; which process trains a pass, and when, changes nothing of what comes out.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

import torch

from fedfm.clients import Profile, Worker
from fedfm.clients.memory import keep_for_reuse
from fedfm.proxies.base import ModelVersion
from fedfm.updates import Failure

AHEAD = 4
"""Passes, times processes, that may be dealt beyond the first unfinished one: their updates wait to be folded."""


@dataclass
class _Child:
    """A process, the line to it, the clients that it is training, and the number of their pass."""

    process: ForkProcess
    line: Connection
    clients: list[str] = field(default_factory=list)
    number: int = 0


class ProcessRuntime:
    """Deals passes to processes as they get free; answers come as they are ready, in nearly the order asked.

    That order keeps few updates waiting to be folded, however large the cohort is.

    The processes are forked when there is something to train, with one thread each, and live until `close`; they are
    forked anew when the proxy that they hold has changed.
    """

    def __init__(self, worker: Worker, processes: int) -> None:
        """A runtime of ``processes`` processes, on a machine that can fork."""
        if worker.stacking is not None:  # as a worker does itself: this process evaluates as large steps as they train
            keep_for_reuse()
        self.worker = worker
        self.processes = processes
        self._children: list[_Child] = []
        self._version = worker.version

    def hand_out(self, clients: Sequence[str], version: ModelVersion) -> None:
        """All clients of this machine share one proxy, which thus is the latest that any of them holds."""
        if clients and self.worker.proxy is not None:
            self.worker.proxy.download(version)

    def exchange(self, messages: Mapping[str, bytes]) -> Generator[tuple[str, bytes | Failure]]:
        """Trains in all processes; a caller that stops iterating stops them."""
        self.worker.prepare(messages)
        if self._children and self._version != self.worker.version:
            self.close()
        waiting = deque(self.worker.passes(messages))
        while len(self._children) < min(self.processes, len(waiting)):
            self._children.append(self._fork())
        try:
            yield from self._deal(waiting, messages)
        except BaseException:  # also a caller's that has stopped listening: whoever still trains would answer later
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes."""
        for child in self._children:
            child.process.terminate()
            child.line.close()
        for child in self._children:
            child.process.join()
        self._children = []

    def _deal(self, waiting: deque[list[str]], messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Failure]]:
        dealt = 0
        while True:
            for child in self._children:
                if not child.clients and waiting and dealt - self._oldest(dealt) < AHEAD * self.processes:
                    self._ask(child, waiting.popleft(), messages)
                    child.number = dealt
                    dealt += 1
            busy = {child.line: child for child in self._children if child.clients}
            if not busy:
                return
            for line in wait(list(busy)):
                child = busy[line]  # type: ignore[index]
                try:
                    client, answer = self._read(child.line)
                except (EOFError, ConnectionError):
                    yield from self._bury(child)
                else:
                    child.clients.remove(client)
                    yield client, answer

    def _oldest(self, dealt: int) -> int:
        """The number of the first pass that is still trained."""
        return min((child.number for child in self._children if child.clients), default=dealt)

    def _ask(self, child: _Child, clients: list[str], messages: Mapping[str, bytes]) -> None:
        """Sends a pass: who is in it, and each message that differs once."""
        if not child.process.is_alive():  # it died idle, which is no client's failure
            self._replace(child)
        distinct = {id(messages[client]): messages[client] for client in clients}
        places = {key: place for place, key in enumerate(distinct)}
        child.clients = list(clients)
        with suppress(ConnectionError):  # it is gone: whoever reads its answer finds out
            child.line.send_bytes(json.dumps([[client, places[id(messages[client])]] for client in clients]).encode())
            for message in distinct.values():
                child.line.send_bytes(message)

    def _read(self, line: Connection) -> tuple[str, bytes | Failure]:
        """One answer; what was booked for it goes to the worker's profile."""
        head = json.loads(line.recv_bytes())
        if self.worker.profile is not None:
            self.worker.profile.add(head["profile"])
        if head["failure"] is not None:
            return head["client"], Failure(head["client"], **head["failure"])
        return head["client"], line.recv_bytes()

    def _bury(self, child: _Child) -> Iterator[tuple[str, Failure]]:
        """Answers for a process that is gone, and puts another in its place."""
        child.process.join()
        code = child.process.exitcode or 0
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        lost, child.clients = child.clients, []
        reason = f"its process ended {how}; where memory ran out, lower runtime.processes or runtime.stack"
        self._replace(child)
        yield from ((client, Failure(client, reason)) for client in lost)

    def _replace(self, child: _Child) -> None:
        """Puts another process in the place of one that is gone."""
        child.line.close()
        new = self._fork()
        child.process, child.line = new.process, new.line

    def _fork(self) -> _Child:
        self._version = self.worker.version
        mine, theirs = multiprocessing.Pipe()
        others = [mine, *(child.line for child in self._children if not child.line.closed)]
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, others, self.worker), daemon=True
        )
        process.start()
        theirs.close()
        return _Child(process, mine)


def can_fork() -> bool:
    """Whether this machine can fork a process that computes: Linux, and no accelerator whose threads torch started."""
    linux = "fork" in multiprocessing.get_all_start_methods() and os.uname().sysname == "Linux"
    return linux and not torch.accelerator.is_available()


def _serve(line: Connection, others: Sequence[Connection], worker: Worker) -> None:
    """What a process does: trains what it is asked to until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGHUP):  # these reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a live display's lock may have been held at the fork
    for other in others:
        other.close()
    torch.set_num_threads(1)
    if worker.profile is not None:
        worker = replace(worker, profile=Profile())
    with suppress(EOFError, ConnectionError):
        while True:
            asked = json.loads(line.recv_bytes())
            distinct = [line.recv_bytes() for _ in range(1 + max(place for _, place in asked))]
            for client, answer in worker.train({client: distinct[place] for client, place in asked}):
                _send(line, worker, client, answer)


def _send(line: Connection, worker: Worker, client: str, answer: bytes | Failure) -> None:
    """One answer: a line of JSON, then the update's bytes where there is one."""
    failure = None
    if isinstance(answer, Failure):
        failure = {"reason": answer.reason, "details": answer.details, "stale": answer.stale}
    booked = worker.profile.take() if worker.profile else None
    line.send_bytes(json.dumps({"client": client, "failure": failure, "profile": booked}).encode())
    if isinstance(answer, bytes):
        line.send_bytes(answer)
