"""The server's end of a relay: a socket that whoever carries envelopes to nodes connects to."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import Envelope, EnvelopeError, Lost, Nodes, Refusal

REMIND = 60.0
"""Seconds after which it is said again who is waited for."""


@dataclass(frozen=True)
class Wait:
    """Who is waited for.

    Attributes:
        what: what they are to do: ``come``, or ``answer``.
        nodes: that have not yet.
        seconds: that are left; infinite where there is no deadline.
    """

    what: Literal["come", "answer"]
    nodes: tuple[str, ...]
    seconds: float


class RelayLine:
    """A line to nodes by way of a relay, which may go and come back.

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
            deadline: seconds that nodes have to answer; None: any.
            check: called now and then while nothing comes; raises when there is nothing to wait for.
            heard: is told of the nodes that are there whenever they have changed.
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
        self._most = 0

    def nodes(self) -> tuple[str, ...]:
        """The nodes that are there; waits, as long as its patience lasts, until there are as many as wanted."""
        end, told = time.monotonic() + self.patience, -float("inf")
        while True:
            while self._next(0.0) is not None:
                pass  # later news of nodes, and answers that nobody waits for any more
            now = time.monotonic()
            if len(self._nodes) >= self.wanted or now >= end:
                return self._nodes
            if now >= told + REMIND:
                told = now
                self.on_wait(Wait("come", self._missing(), end - now))
            self._next(min(end, told + REMIND))

    def send(
        self, envelopes: Mapping[str, Envelope], *, most: int, within: float | None = None
    ) -> Generator[tuple[str, Envelope]]:
        """Sends nodes their envelopes, and yields answers until all are there or the deadline has passed.

        Args:
            envelopes: by node.
            most: as `Line.send`.
            within: seconds in place of the deadline.
        """
        self._most = most
        deadline = self.deadline if within is None else within
        told = time.monotonic()
        end = told + (float("inf") if deadline is None else deadline)
        waiting = set(envelopes)
        writer = threading.Thread(target=self._write, args=(self._relay, envelopes), daemon=True)
        writer.start()  # beside reading: while the relay hands over what comes late, it takes nothing
        try:
            while self._relay is not None and waiting:
                got = self._next(min(end, told + REMIND))
                now = time.monotonic()
                if now >= told + REMIND:
                    told = now
                    self.on_wait(Wait("answer", tuple(sorted(waiting)), end - now))
                if got is None:
                    if now >= end and self._relay is not None and not writer.is_alive():
                        break
                    continue
                if got[0] in waiting:  # else it answers what nobody waits for any more
                    waiting.discard(got[0])
                    yield got
        finally:  # also when nobody waits for the others: a envelope goes out whole, or the line is of no use
            while self._relay is not None and writer.is_alive():
                self._next(time.monotonic() + 0.1)
        lost = Lost(reason="the relay to the nodes is gone")
        if self._relay is not None:
            lost = Lost(reason=f"no answer within {deadline} seconds", late=True)
        yield from ((node, Envelope(lost)) for node in sorted(waiting))

    def attend(self, check: Callable[[], None]) -> None:
        """Calls ``check`` now and then while nothing comes; what that raises ends the waiting."""
        self._checks.append(check)

    def _write(self, relay: socket.socket | None, envelopes: Mapping[str, Envelope]) -> None:
        calls = {name: node for node, name in self.names.items()} if self.names is not None else {}
        if relay is None:
            return
        with suppress(OSError):  # it has gone: whoever waits for its answer finds out
            for node, envelope in envelopes.items():
                sockets.send(relay, envelope, name=calls.get(node, node))

    def on_wait(self, wait: Wait) -> None:
        """Nodes are waited for; a line that can tell its user does so here."""

    def _missing(self) -> tuple[str, ...]:
        """Nodes that are known by name, and are not there."""
        return tuple(sorted(set((self.names or {}).values()) - set(self._nodes)))

    def on_loss(self) -> None:
        """The relay has gone; whoever can start another does so here."""

    def close(self) -> None:
        """Hangs up."""
        if self._relay is not None:
            self._relay.close()
        self._server.close()
        self.path.unlink(missing_ok=True)

    def _next(self, end: float) -> tuple[str, Envelope] | None:
        """What the relay brings next; None at the end of the time, or when the relay has gone."""
        while True:
            line = self._relay or self._server
            left = max(0.0, end - time.monotonic())
            if not select.select([line], [], [], min(left, 1.0))[0]:
                if left <= 1.0:
                    return None
                for check in self._checks:
                    check()
                continue
            if self._relay is None:
                self._relay, _ = self._server.accept()
                continue
            try:
                got = sockets.receive(self._relay, most=self._most, spill=True)
            except sockets.TooLargeError as error:
                return self._name(error.node) or "", Envelope(Refusal(reason=str(error)))
            except (EnvelopeError, OSError):
                got = None
            if got is None:
                self._relay.close()
                self._relay = None
                self._set_nodes(())
                self.on_loss()
                return None
            node, envelope = got
            if isinstance(envelope.head, Nodes) and not node:  # only the relay itself knows who is there
                self._set_nodes(envelope.head.nodes)
            return self._name(node) or "", envelope

    def _set_nodes(self, nodes: Sequence[str]) -> None:
        found = tuple(sorted(name for node in nodes if (name := self._name(node)) is not None))
        if found != self._nodes and self.heard is not None:
            self.heard(found)
        self._nodes = found

    def _name(self, node: str) -> str | None:
        return node if self.names is None else self.names.get(node)
