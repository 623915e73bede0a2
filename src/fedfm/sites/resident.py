"""A site's worker as a process that stays: ``python -m fedfm.sites.resident SOCKET [--data FILE --policy FILE]``.

It answers parcels that come over a Unix socket, one caller at a time, with the model and the data in memory.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import traceback
from contextlib import closing
from pathlib import Path
from types import FrameType

from fedfm.runtimes import sockets
from fedfm.runtimes.inbox import Inbox
from fedfm.runtimes.parcels import Parcel, ParcelError, Refusal
from fedfm.sites.border import Border
from fedfm.sites.logs import Formatter
from fedfm.sites.own import read_own_data, read_settings
from fedfm.sites.policy import Policy
from fedfm.sites.site import Own, Site

IDLE = 900.0
"""Seconds without a caller after which a worker frees its memory."""

_log = logging.getLogger("fedfm.sites")  # also where this module is the program


def serve(path: Path, site: Site, *, idle: float = IDLE) -> None:
    """Answers whoever connects to a socket, until the process is told to end.

    Args:
        path: of the socket.
        site: what answers.
        idle: seconds without a caller after which it frees its memory.
    """
    inbox = Inbox()
    with closing(sockets.listen(path)) as server:
        server.settimeout(idle)
        while True:
            try:
                caller, _ = server.accept()
            except TimeoutError:
                site.rest()
                continue
            caller.settimeout(None)
            with caller:
                try:
                    _answer(caller, site, inbox)
                except (ParcelError, OSError) as error:  # this caller's trouble; the next may be well
                    _log.warning("a caller could not be answered: %s", error)


def _answer(caller: socket.socket, site: Site, inbox: Inbox) -> None:
    asked = sockets.receive(caller)
    if asked is None:
        return
    if (seen := inbox.take(*asked)) is not None:
        sockets.send(caller, seen)
        return
    try:
        for part in site.handle(asked[1]):
            sockets.send(caller, part)
    except OSError:
        raise
    except Exception as error:  # told where it can be mended; the site goes on
        _log.error("%s", traceback.format_exc())
        sockets.send(caller, Parcel(Refusal(reason=f"it did not foresee a {type(error).__name__}; its log says where")))


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
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    own = None
    if options.data is not None:
        policy = read_settings(options.policy, Policy) if options.policy else Policy()
        own = Own(read_own_data(options.data), Border(policy, options.socket.parent, _log.info))
    serve(options.socket, Site(own, options.socket.with_suffix(".proxies")))


if __name__ == "__main__":
    main()
