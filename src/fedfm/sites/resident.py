"""A worker as a process that stays: ``python -m fedfm.sites.resident SOCKET [--data FILE --policy FILE]``.

It answers envelopes that come over a Unix socket, one caller at a time, with the model and the data in memory. Beside a
site's own data it gets its callers from a `fedfm.sites.guard`.
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

from fedfm.runtimes import sockets
from fedfm.runtimes.envelopes import EnvelopeError
from fedfm.runtimes.message_log import MessageLog
from fedfm.sites.egress import Egress
from fedfm.sites.guard import SECONDS
from fedfm.sites.logs import Formatter
from fedfm.sites.policy import Policy
from fedfm.sites.site import Own, Site
from fedfm.sites.site_config import read_own_data, read_settings

IDLE = 900.0
"""Seconds without a caller after which a worker frees its memory."""

_log = logging.getLogger("fedfm.sites")  # also where this module is the program


def serve(
    callers: Iterable[socket.socket | None], site: Site, *, tell: Callable[[float], object] = lambda seconds: None
) -> None:
    """Answers callers, until there are no more or the process is told to end.

    Args:
        callers: one after the other; None: there was none for long, and it frees its memory.
        site: what answers.
        tell: gets the seconds that each message may take before it is worked on, and 0 when it is answered.
    """
    message_log = MessageLog()
    for caller in callers:
        if caller is None:
            site.rest()
            continue
        caller.settimeout(None)
        with caller:
            try:
                _answer(caller, site, message_log, tell)
            except (EnvelopeError, OSError) as error:  # this caller's trouble; the next may be well
                _log.warning("a caller could not be answered: %s", error)
        tell(0.0)


def accepted(path: Path, *, idle: float = IDLE) -> Iterator[socket.socket | None]:
    """Those who connect to a socket; None after ``idle`` seconds without any."""
    with closing(sockets.listen(path)) as server:
        server.settimeout(idle)
        while True:
            try:
                yield server.accept()[0]
            except TimeoutError:
                yield None


def handed(line: socket.socket, *, idle: float = IDLE) -> Iterator[socket.socket | None]:
    """Those whom a guard hands over, until it is gone; None after ``idle`` seconds without any."""
    line.settimeout(idle)
    while True:
        try:
            word, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        except TimeoutError:
            yield None
            continue
        if not word:
            return
        yield socket.socket(fileno=descriptors[0])


def _answer(caller: socket.socket, site: Site, message_log: MessageLog, tell: Callable[[float], object]) -> None:
    asked = sockets.receive(caller)
    if asked is None:
        return
    tell(site.seconds(asked[1]))
    if (seen := message_log.take(*asked)) is not None:
        sockets.send(caller, seen)
        return
    for part in site.handle(asked[1]):
        sockets.send(caller, part)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serves the socket named on the command line, or the callers of a guard."""
    parser = argparse.ArgumentParser(description="A worker.")
    parser.add_argument("socket", type=Path, help="where it listens; the site's records lie beside it")
    parser.add_argument("--data", type=Path, help="the site's data.yaml")
    parser.add_argument("--policy", type=Path, help="the site's policy.yaml")
    parser.add_argument("--callers", type=int, metavar="DESCRIPTOR", help="socket by which a guard hands over callers")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    own = None
    if options.data is not None:
        policy = read_settings(options.policy, Policy) if options.policy else Policy()
        own = Own(read_own_data(options.data), Egress(policy, options.socket.parent, _log.info))
    site = Site(own, options.socket.with_suffix(".proxies"))
    if options.callers is None:
        serve(accepted(options.socket), site)
        return
    line = socket.socket(fileno=options.callers)

    def tell(seconds: float) -> None:
        line.sendall(SECONDS.pack(seconds))

    tell(0.0)
    serve(handed(line), site, tell=tell)


if __name__ == "__main__":
    main()
