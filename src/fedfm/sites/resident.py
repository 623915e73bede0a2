"""A site's worker as a process that stays: ``python -m fedfm.sites.resident FOLDER --data FILE --callers DESCRIPTOR``.

As `fedfm.hosts.resident`, but its callers come from a `fedfm.sites.guard`.
"""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

from fedfm.hosts.logs import log_to_stderr
from fedfm.hosts.resident import IDLE, exit_on_sigterm, serve
from fedfm.sites.egress import Egress
from fedfm.sites.guard import SECONDS
from fedfm.sites.policy import Policy
from fedfm.sites.site import Site
from fedfm.sites.site_config import read_settings, read_site_data

_log = logging.getLogger("fedfm.sites")  # also where this module is the program


def handed(line: socket.socket, *, idle: float = IDLE) -> Iterator[socket.socket | None]:
    """Callers that a guard hands over, until the guard has ended; None after each ``idle`` seconds without a caller."""
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


def main() -> None:
    """Serves the callers that a guard hands over."""
    parser = argparse.ArgumentParser(description="A site's worker.")
    parser.add_argument("folder", type=Path, help="of the site's records")
    parser.add_argument("--data", type=Path, required=True, help="the site's data.yaml")
    parser.add_argument("--policy", type=Path, help="the site's policy.yaml")
    parser.add_argument(
        "--callers", type=int, required=True, metavar="DESCRIPTOR", help="socket that a guard hands callers over by"
    )
    options = parser.parse_args()
    exit_on_sigterm()
    log_to_stderr()
    policy = read_settings(options.policy, Policy) if options.policy else Policy()
    site = Site(read_site_data(options.data), Egress(policy, options.folder, _log.info), options.folder)
    line = socket.socket(fileno=options.callers)

    def report(seconds: float) -> None:
        line.sendall(SECONDS.pack(seconds))

    report(0.0)
    serve(handed(line), site, report=report)


if __name__ == "__main__":
    main()
