"""The server's end of a relay: a socket to which the process that carries envelopes to nodes connects."""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedfm.runtimes import sockets
from fedfm.runtimes.base import LOOK
from fedfm.runtimes.envelopes import Envelope, EnvelopeError, Nodes, Refusal
from fedfm.runtimes.line import Part

REMIND = 60.0
"""Seconds after which the line says again which nodes it waits for."""


@dataclass(frozen=True)
class Wait:
    """Nodes that are waited for.

    Attributes:
        what: what they are to do: ``come``, or ``answer``.
        nodes: those that have not yet.
        seconds: that are left; infinite where there is no deadline.
    """

    what: Literal["come", "answer"]
    nodes: tuple[str, ...]
    seconds: float


@dataclass
class _Unanswered:
    """An answer that is waited for.

    Attributes:
        node: that owes it.
        most: bytes that its blobs may have; None: any number.
        seconds: that the node has for it.
        end: when these are over.
        written: whether the relay has the whole envelope; before, the node cannot be late.
    """

    node: str
    most: int | None
    seconds: float
    end: float
    written: bool = False


class RelayLine:
    """A line to nodes by way of a relay, which may end and come back.

    A thread writes, so that the relay's answers are read while it is slow to take envelopes. Each envelope goes under a
    name of its own, the node's and a number: a late answer to an earlier one is not taken for an answer to this one.

    Attributes:
        names: of nodes, by what the relay calls them; others are not known. None: as the relay calls them.
    """

    def __init__(
        self,
        path: Path,
        *,
        nodes: int,
        patience: float,
        deadline: float | None,
        check: Callable[[], None] | None = None,
        heard: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        """A line whose relay connects to ``path``.

        Args:
            path: of the socket.
            nodes: to wait for before the first envelope.
            patience: seconds to wait for them, and for the relay.
            deadline: seconds that nodes have to answer; None: no limit.
            check: called about once a second while nothing comes; raises when waiting is of no use.
            heard: gets the nodes that are there whenever they have changed.
        """
        self.path = path
        self.wanted = nodes
        self.patience = patience
        self.deadline = deadline
        self._checks = [check] if check is not None else []
        self.heard = heard
        self.names: Mapping[str, str] | None = None
        self._server = sockets.listen(path)
        self._relay: socket.socket | None = None
        self._nodes: tuple[str, ...] = ()
        self._owed: dict[str, _Unanswered] = {}  # by the name that the envelope had
        self._parts = deque[Part]()
        self._pushed = 0
        self._told = 0.0
        self._unwritten = queue.SimpleQueue[tuple[socket.socket, str, _Unanswered, Envelope] | None]()
        threading.Thread(target=self._write_all, daemon=True).start()

    def nodes(self, *, wait: bool = True) -> tuple[str, ...]:
        """As `Line.nodes`; waits as long as its patience lasts."""
        end, told = time.monotonic() + (self.patience if wait else 0.0), -float("inf")
        while True:
            while self._read(0.0):
                pass  # later news of nodes
            now = time.monotonic()
            if len(self._nodes) >= self.wanted or now >= end:
                return self._nodes
            if now >= told + REMIND:
                told = now
                self.on_wait(Wait("come", self._missing(), end - now))
            self._read(min(end, told + REMIND))

    def push(self, node: str, envelope: Envelope, *, most: int | None, within: float | None = None) -> None:
        """As `Line.push`; a node has as long as ``within`` says, or the line's deadline."""
        self._pushed += 1
        seconds = self.deadline if within is None else within
        seconds = float("inf") if seconds is None else seconds
        now = time.monotonic()
        if not self._owed:
            self._told = now
        name = f"{self._call(node)} {self._pushed}"
        self._owed[name] = owed = _Unanswered(node, most, seconds, now + seconds)
        if self._relay is None:
            self._lose_all()
        else:
            self._unwritten.put((self._relay, name, owed, envelope))

    def pull(self, timeout: float | None = None) -> Part | None:
        """As `Line.pull`."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            if self._parts:
                return self._parts.popleft()
            if not self._owed:
                return None
            now = time.monotonic()
            for name in [name for name, owed in self._owed.items() if owed.written and now >= owed.end]:
                owed = self._owed.pop(name)
                self._parts.append(Part.lost(owed.node, f"no answer within {owed.seconds:g} seconds", late=True))
            if self._parts:
                continue
            if now >= until:
                return None
            ends = [owed.end for owed in self._owed.values()]
            if now >= self._told + REMIND:
                self._told = now
                waiting = sorted(owed.node for owed in self._owed.values())
                self.on_wait(Wait("answer", tuple(waiting), min(ends) - now))
            unwritten = now + 0.1 if min(ends) <= now else float("inf")  # its time is over, but it has not begun
            self._read(min(until, self._told + REMIND, unwritten, *(end for end in ends if end > now)))

    def drop(self) -> None:
        """As `Line.drop`; an envelope that is being written still goes out whole."""
        self._owed.clear()
        self._parts.clear()

    def attend(self, check: Callable[[], None]) -> None:
        """As `Line.attend`."""
        self._checks.append(check)

    def on_wait(self, wait: Wait) -> None:
        """Called when nodes are waited for, and again after `REMIND` seconds; for subclasses that can say so."""

    def on_loss(self) -> None:
        """Called when the relay has gone; for subclasses that can start another."""

    def close(self) -> None:
        """Ends the connection and removes the socket."""
        self._unwritten.put(None)
        self._hang_up()
        self._server.close()
        self.path.unlink(missing_ok=True)

    def _write_all(self) -> None:
        """The work of the thread that writes."""
        while (item := self._unwritten.get()) is not None:
            self._write(*item)
            del item  # as large as a model: it does not wait here for the next

    def _write(self, relay: socket.socket, name: str, owed: _Unanswered, envelope: Envelope) -> None:
        with suppress(OSError):  # the relay has gone, which `_read` finds
            sockets.send(relay, envelope, name=name)
        owed.written = True

    def _read(self, end: float) -> bool:
        """Takes what the relay brings next; False when the time is over."""
        while True:
            line = self._relay or self._server
            left = max(0.0, end - time.monotonic())
            if not select.select([line], [], [], min(left, LOOK))[0]:
                if left <= LOOK:
                    return False
                for check in self._checks:
                    check()
                continue
            if self._relay is None:
                self._relay, _ = self._server.accept()
                continue
            try:
                got = sockets.receive(self._relay, most=self._most, spill=True)
            except sockets.TooLargeError as error:
                self._take(error.name, Envelope(Refusal(reason=str(error))))
                return True
            except (EnvelopeError, OSError):
                got = None
            if got is None:
                self._hang_up()
                self._set_nodes(())
                self.on_loss()
                self._lose_all()
                return True
            name, envelope = got
            if isinstance(envelope.head, Nodes) and not name:  # only the relay itself knows which nodes are there
                self._set_nodes(envelope.head.nodes)
            else:
                self._take(name, envelope)
            return True

    def _take(self, name: str, envelope: Envelope) -> None:
        """Takes an answer; one that is not waited for is dropped."""
        if (owed := self._owed.pop(name, None)) is not None:
            self._parts.append(Part(owed.node, envelope))

    def _most(self, name: str) -> int | None:
        """Bytes that the blobs of an answer may have: none where it is not waited for."""
        return self._owed[name].most if name in self._owed else 0

    def _lose_all(self) -> None:
        self._parts += [Part.lost(owed.node, "the relay to the nodes is gone") for owed in self._owed.values()]
        self._owed.clear()

    def _hang_up(self) -> None:
        if self._relay is not None:
            with suppress(OSError):
                self._relay.shutdown(socket.SHUT_RDWR)  # wakes a thread that writes to it
            self._relay.close()
            self._relay = None

    def _missing(self) -> tuple[str, ...]:
        """Nodes that are known by name, and are not there."""
        return tuple(sorted(set((self.names or {}).values()) - set(self._nodes)))

    def _set_nodes(self, nodes: Sequence[str]) -> None:
        found = tuple(sorted(name for node in nodes if (name := self._name(node)) is not None))
        if found != self._nodes and self.heard is not None:
            self.heard(found)
        self._nodes = found

    def _name(self, node: str) -> str | None:
        return node if self.names is None else self.names.get(node)

    def _call(self, node: str) -> str:
        """What the relay calls a node."""
        calls = {name: call for call, name in self.names.items()} if self.names is not None else {}
        return calls.get(node, node)
