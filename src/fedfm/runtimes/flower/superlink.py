"""A SuperLink on this machine's loopback, and the process that starts its relays; both survive a kill."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from flwr.supercore.constant import TaskType

from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.runtimes.flower.control import Control
from fedfm.runtimes.flower.control_auth import SECRET_OPTION
from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, new_secret
from fedfm.runtimes.flower.programs import command
from fedfm.runtimes.flower.supervisor import Supervisor

SUPERLINK, SUPEREXEC = "superlink", "superexec"
"""Names of the SuperLink's processes."""

DATABASE, SECRET, RELAY = "superlink.db", "secret", "relay.sock"
"""Names of the SuperLink's files."""

START = 60.0
"""Seconds that the SuperLink may take to start."""


def environment(folder: Path) -> dict[str, str]:
    """Settings of Flower's processes: they report, fetch and install nothing, and write only in a folder."""
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }


def start_superlink(supervisor: Supervisor, folder: Path, tls: Path, port: int, *, in_memory: bool = False) -> Control:
    """Starts a SuperLink for admitted nodes and for callers that know its secret, and waits until it answers.

    Args:
        supervisor: of its processes.
        folder: of its database, its secret and the socket that relays connect to (`RELAY`), for this user alone; a
            SuperLink that starts again reads its database.
        tls: folder with ``ca.crt``, ``server.pem`` and ``server.key``; the certificate is valid for 127.0.0.1.
        port: to listen at, on 127.0.0.1 only.
        in_memory: keeps everything in memory, which is faster for large messages than a database.

    Raises:
        RecipeError: the port is in use.
        TooFewClientsError: one of its processes ended or did not answer.
    """
    secret, address = folder / SECRET, f"127.0.0.1:{port}"
    _refuse_taken(port)
    new_secret(secret)
    supervisor.start(
        SUPERLINK, *command("flower-superlink"), "--host", "127.0.0.1", "--port", str(port),
        "--ssl-ca-certfile", str(tls / AUTHORITY), "--ssl-certfile", str(tls / CERTIFICATE),
        "--ssl-keyfile", str(tls / KEY), "--enable-supernode-auth", "--isolation", "process",
        SECRET_OPTION, str(secret),
        *(() if in_memory else ("--database", str(folder / DATABASE))),
    )  # fmt: skip
    wait_for(supervisor, address, tls / AUTHORITY)
    start_superexec(supervisor, folder, tls, port)
    return Control(address, tls / AUTHORITY, secret)


def start_superexec(supervisor: Supervisor, folder: Path, tls: Path, port: int) -> None:
    """Starts the process that starts a SuperLink's relays; the arguments are those of the SuperLink."""
    supervisor.start(
        SUPEREXEC, *command("flower-superexec", TaskType.SERVER_APP.value, str(folder / RELAY)),
        "--runtime-api-address", f"127.0.0.1:{port}", "--root-certificates", str(tls / AUTHORITY),
        SECRET_OPTION, str(folder / SECRET),
    )  # fmt: skip


@contextmanager
def within(settings: Mapping[str, str]) -> Iterator[None]:
    """Adds settings to the environment of this process, for Flower's own calls in it."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = f"cannot listen at port {port}: {error.strerror}; give another port"
            raise RecipeError(reason, source="--port") from error


def wait_for(supervisor: Supervisor, address: str, authority: Path) -> None:
    """Waits until the SuperLink among a supervisor's processes answers at an address.

    Raises:
        TooFewClientsError: a process ended, or the SuperLink did not answer.
    """
    end = time.monotonic() + START
    with httpx.Client(verify=ssl.create_default_context(cafile=authority)) as client:
        while time.monotonic() < end:
            supervisor.check()
            with suppress(httpx.HTTPError):
                if client.get(f"https://{address}/health").is_success:
                    return
            time.sleep(0.1)
    words = supervisor.last_words(SUPERLINK)
    raise TooFewClientsError(f"the superlink did not answer within {START:g} seconds{words}")
