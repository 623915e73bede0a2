"""A site's worker as a process that stays: ``python -m fedfm.sites.resident SOCKET``.

It answers parcels that come over a Unix socket, one caller at a time, with the model and the data in memory.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
import traceback
from contextlib import closing
from pathlib import Path
from types import FrameType

from fedfm.runtimes import sockets
from fedfm.runtimes.parcels import Parcel, ParcelError, Refusal
from fedfm.sites.site import Site

_log = logging.getLogger(__name__)


def serve(path: Path, site: Site) -> None:
    """Answers whoever connects to a socket, until the process is told to end.

    Args:
        path: of the socket.
        site: what answers.
    """
    with closing(sockets.listen(path)) as server:
        while True:
            caller, _ = server.accept()
            with caller:
                try:
                    _answer(caller, site)
                except (ParcelError, OSError) as error:  # this caller's trouble; the next may be well
                    _log.warning("a caller could not be answered: %s", error)


def _answer(caller: socket.socket, site: Site) -> None:
    asked = sockets.receive(caller)
    if asked is None:
        return
    try:
        for part in site.handle(asked[1]):
            sockets.send(caller, part)
    except OSError:
        raise
    except Exception as error:  # told where it can be mended; the site goes on
        _log.error("%s", traceback.format_exc())
        sockets.send(caller, Parcel(Refusal(reason=f"{type(error).__name__}: {error}")))


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """Serves the socket named on the command line."""
    signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    serve(Path(sys.argv[1]), Site())


if __name__ == "__main__":
    main()
