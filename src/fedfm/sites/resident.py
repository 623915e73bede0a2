"""A site's worker as a process that stays: ``python -m fedfm.sites.resident SOCKET [--data FILE --policy FILE]``.

It answers parcels that come over a Unix socket, one caller at a time, with the model and the data in memory. Whether it
has had a message it says at once, whatever it is doing.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, Queue
from types import FrameType

from fedfm.runtimes import sockets
from fedfm.runtimes.inbox import Inbox
from fedfm.runtimes.parcels import Parcel, ParcelError, Refusal
from fedfm.sites.border import Border
from fedfm.sites.own import read_own_data, read_settings
from fedfm.sites.policy import Policy
from fedfm.sites.site import Own, Site

IDLE = 900.0
"""Seconds without work after which a worker frees its memory."""

_log = logging.getLogger("fedfm.sites")  # also where this module is the program


def serve(path: Path, site: Site, *, idle: float = IDLE) -> None:
    """Answers whoever connects to a socket, until the process is told to end.

    Args:
        path: of the socket.
        site: what answers.
        idle: seconds without work after which it frees its memory.
    """
    with closing(sockets.listen(path)) as server:
        callers = _Callers(server)
        try:
            while True:
                try:
                    _answer(site, *callers.next(idle))
                except Empty:
                    site.rest()
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # closed alone, it would still be waited on


class _Callers:
    """Those who call at a socket, heard by a thread of its own: whether a message is there is said also during work."""

    def __init__(self, server: socket.socket) -> None:
        self._inbox = Inbox()
        self._waiting = Queue[tuple[socket.socket, Parcel] | Exception]()
        threading.Thread(target=self._hear, args=(server,), daemon=True).start()

    def next(self, timeout: float) -> tuple[socket.socket, Parcel]:
        """Who called first of those that wait, and what it wants done.

        Raises:
            Empty: nobody in so many seconds.
        """
        first = self._waiting.get(timeout=timeout)
        if isinstance(first, Exception):
            raise first
        return first

    def _hear(self, server: socket.socket) -> None:
        try:
            while True:
                self._take(server.accept()[0])
        except Exception as error:  # a worker that hears nobody is of no use
            self._waiting.put(error)

    def _take(self, caller: socket.socket) -> None:
        try:
            asked = sockets.receive(caller)
            if asked is not None and (seen := self._inbox.take(*asked)) is not None:
                sockets.send(caller, seen)
                asked = None
        except (ParcelError, OSError) as error:  # this caller's trouble; the next may be well
            _log.warning("a caller could not be heard: %s", error)
            asked = None
        if asked is None:
            caller.close()
        else:
            self._waiting.put((caller, asked[1]))


def _answer(site: Site, caller: socket.socket, parcel: Parcel) -> None:
    with caller:
        try:
            for part in _parts(site, parcel):
                sockets.send(caller, part)
        except OSError as error:  # this caller's trouble; the next may be well
            _log.warning("a caller could not be answered: %s", error)


def _parts(site: Site, parcel: Parcel) -> Iterator[Parcel]:
    try:
        yield from site.handle(parcel)
    except OSError:
        raise
    except Exception as error:  # told where it can be mended; the site goes on
        _log.error("%s", traceback.format_exc())
        yield Parcel(Refusal(reason=f"it did not foresee a {type(error).__name__}; its log says where"))


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serves the socket named on the command line."""
    parser = argparse.ArgumentParser(description="A site's worker.")
    parser.add_argument("socket", type=Path, help="where it listens")
    parser.add_argument("--data", type=Path, help="the site's data.yaml; its records lie beside the socket")
    parser.add_argument("--policy", type=Path, help="the site's policy.yaml")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    own = None
    if options.data is not None:
        policy = read_settings(options.policy, Policy) if options.policy else Policy()
        own = Own(read_own_data(options.data), Border(policy, options.socket.parent, _log.info))
    serve(options.socket, Site(own, options.socket.with_suffix(".proxies")))


if __name__ == "__main__":
    main()
