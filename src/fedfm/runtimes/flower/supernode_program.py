"""A SuperNode with a SuperExec of its own; no other process can take the node's tasks.

A SuperNode that starts Flower's own SuperExec gives tasks, and with them a server's messages, to every account of the
machine that asks at its port. Here the two share a secret, which Flower supports for a SuperExec that is started
separately.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module

from flwr.supercore.constant import TaskType

from fedfm.runtimes.flower.control_auth import SECRET_OPTION
from fedfm.runtimes.flower.programs import command, replace

LEAVE = 5.0
"""Seconds that a node has to sign off from the server."""


def main() -> None:
    """Runs as ``flower-supernode SOCKET SECRET AUTHORITY …``.

    The first three are paths: the socket of the node's worker, the file of the secret, and the certificate of the
    authority that signed this node's own certificate.
    """
    socket, secret, authority = sys.argv[1:4]
    sys.argv[1:4] = ["--isolation", "process", SECRET_OPTION, secret, "--ssl-ca-certfile", authority]
    program = import_module("flwr.supernode.cli.flower_supernode")
    connect: Callable[..., None] = program.start_client_internal

    def with_superexec(*, runtime_api_address: str, **settings: object) -> None:
        """Starts the SuperExec, then joins the federation. Flower calls it once the node listens at its port."""
        superexec = subprocess.Popen(  # noqa: S603 - our own program
            command(
                "flower-superexec", TaskType.CLIENT_APP.value, socket, SECRET_OPTION, secret,
                "--runtime-api-address", runtime_api_address, "--root-certificates", authority,
                "--parent-pid", str(os.getpid()),
            ),
        )  # fmt: skip
        threading.Thread(target=_end_with, args=(superexec,), daemon=True).start()
        connect(runtime_api_address=runtime_api_address, **settings)

    replace(program, start_client_internal=with_superexec)
    program.flower_supernode()


def _end_with(superexec: subprocess.Popen[bytes]) -> None:
    """Ends this process some time after the SuperExec: without it the node cannot answer.

    A signal that ends both reaches the SuperExec first, and the node still has to sign off from the server.
    """
    superexec.wait()
    time.sleep(LEAVE)
    os._exit(1)
