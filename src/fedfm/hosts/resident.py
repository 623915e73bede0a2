"""A node as a process that stays: ``python -m fedfm.hosts.resident SOCKET``.

It answers envelopes that come over a Unix socket, from one caller at a time, with the model and the data in memory.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType

from fedfm.hosts.logs import log_to_stderr
from fedfm.hosts.node import Node
from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import EnvelopeError
from fedfm.runtimes.message_log import MessageLog

IDLE = 900.0
"""Seconds without a caller after which a node frees its memory."""

_log = logging.getLogger("fedfm.hosts")


def serve(
    callers: Iterable[socket.socket | None], node: Node, *, report: Callable[[float], object] = lambda seconds: None
) -> None:
    """Answers callers, until there are no more or the process is ended by a signal.

    Args:
        callers: one after the other; None: no caller came for a long time, and the node frees its memory.
        node: answers them.
        report: gets the seconds that each message may take before the node works on it, and 0 once it is answered.
    """
    message_log = MessageLog()
    for caller in callers:
        if caller is None:
            node.rest()
            continue
        caller.settimeout(None)
        with caller:
            try:
                _answer(caller, node, message_log, report)
            except (EnvelopeError, OSError) as error:  # a fault of this caller; the next one is served
                _log.warning("a caller could not be answered: %s", error)
        report(0.0)


def accepted(path: Path, *, idle: float = IDLE) -> Iterator[socket.socket | None]:
    """Callers that connect to a socket; None after each ``idle`` seconds without a caller."""
    with closing(sockets.listen(path)) as server:
        server.settimeout(idle)
        while True:
            try:
                yield server.accept()[0]
            except TimeoutError:
                yield None


def exit_on_sigterm() -> None:
    """Ends this process with code 0 when it gets SIGTERM, so that ``finally`` blocks run."""
    signal.signal(signal.SIGTERM, _exit)


def _answer(caller: socket.socket, node: Node, message_log: MessageLog, report: Callable[[float], object]) -> None:
    asked = sockets.receive(caller)
    if asked is None:
        return
    report(node.seconds(asked[1]))
    if (seen := message_log.take(*asked)) is not None:
        sockets.send(caller, seen)
        return
    for part in node.handle(asked[1]):
        sockets.send(caller, part)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serves the socket that the command line names."""
    parser = argparse.ArgumentParser(description="A node of a simulation.")
    parser.add_argument("socket", type=Path, help="where it listens; proxies are kept beside it")
    options = parser.parse_args()
    exit_on_sigterm()
    log_to_stderr()
    serve(accepted(options.socket), Node(options.socket.with_suffix(".proxies")))


if __name__ == "__main__":
    main()
