"""A SuperNode on this machine, which carries a server's envelopes to the worker at a socket."""

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
    302: "Flower does not accept the private key (`fedfm keys new` makes a key)",
    305: "the server does not take this site's key, or still counts the site as connected, which ends within a minute",
    600: "the server's address is not valid",
    603: "the authority's certificate cannot be read",
}
"""Flower's exit code of a SuperNode → why it ended."""

UNEXPLAINED = (
    "Flower does not say why; a known cause is that this machine's clock is more than 5 seconds ahead of the server's, "
    "or more than 5 minutes behind"
)
"""Why a SuperNode ended with code 0 although it was not stopped."""

PERMANENT = frozenset({302, 600, 603})
"""Exit codes that would come again after a restart."""

CONNECTED = "SuperNode ID"
"""Part of what a SuperNode logs once a server has accepted it."""

OWN_DAYS = 3650
"""Validity of the certificate of a SuperNode's own port; it is made at each start."""

_REASON = re.compile(r"ref-exit-codes/(\d+)")


def why_ended(words: str) -> int | None:
    """Flower's exit code in the log of a SuperNode that has ended; None where the log has none."""
    found = _REASON.search(words)
    return int(found[1]) if found else None


def start_supernode(
    supervisor: Supervisor, name: str, *, server: str, authority: Path, key: Path, worker: Path, port: int
) -> None:
    """Starts a SuperNode. Its own port accepts only its own SuperExec and that SuperExec's tasks.

    Args:
        supervisor: of its processes, in a folder for this user alone.
        name: of the process.
        server: host and port of the SuperLink, or of the reverse proxy in front of it.
        authority: certificate of the authority that signed the server's certificate.
        key: the node's private key.
        worker: socket of the worker that answers.
        port: of 127.0.0.1, where the SuperNode listens for its own apps.
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
    """Ports of 127.0.0.1 that are free now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
