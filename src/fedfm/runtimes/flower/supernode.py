"""A SuperNode on this machine: it carries a server's envelopes to the worker behind a socket."""

from __future__ import annotations

import re
import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, new_certificates, new_secret
from fedfm.runtimes.flower.programs import command
from fedfm.runtimes.flower.supervisor import Supervisor

REASONS = {
    302: "the private key is no key that Flower takes (`fedfm keys new` makes one)",
    305: "the server does not take this site's key, or takes the site to be connected still, which passes in a minute",
    600: "the server's address is none",
    603: "the authority's certificate cannot be read",
}
"""Flower's number of why a SuperNode ended → in words."""

UNEXPLAINED = (
    "Flower does not say why; it ends so when this machine's clock is more than 5 seconds ahead of the server's, or 5 "
    "minutes behind"
)
"""Of a SuperNode that ends well, though nobody told it to."""

PERMANENT = frozenset({302, 600, 603})
"""Those that another start would end with too."""

CONNECTED = "SuperNode ID"
"""What a SuperNode says when a server has taken it."""

OWN_DAYS = 3650
"""That the certificate of a SuperNode's own port is good for; it is made at each start."""

_REASON = re.compile(r"ref-exit-codes/(\d+)")


def why_ended(words: str) -> int | None:
    """Flower's number of why a SuperNode ended, by its own words; None: it did not say."""
    found = _REASON.search(words)
    return int(found[1]) if found else None


def start_supernode(
    supervisor: Supervisor, name: str, *, server: str, authority: Path, key: Path, worker: Path, port: int
) -> None:
    """Starts a SuperNode, whose own port takes only its own SuperExec and the tasks of that.

    Args:
        supervisor: of its processes, in a folder for this user alone.
        name: of the process.
        server: host and port of the SuperLink, or of the proxy before it.
        authority: certificate of who has signed the server's.
        key: the node's private key.
        worker: socket of the worker that answers.
        port: that the SuperNode's own apps reach it at, on 127.0.0.1.
    """
    own, secret = supervisor.folder / f"{name}.tls", supervisor.folder / f"{name}.secret"
    shutil.rmtree(own, ignore_errors=True)
    new_certificates(own, ["127.0.0.1"], days=OWN_DAYS)
    new_secret(secret)
    supervisor.start(
        name, *command("flower-supernode", str(worker), str(secret), str(own / AUTHORITY)),
        "--superlink", server, "--root-certificates", str(authority), "--auth-supernode-private-key", str(key),
        "--host", "127.0.0.1", "--port", str(port),
        "--ssl-certfile", str(own / CERTIFICATE), "--ssl-keyfile", str(own / KEY),
    )  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
