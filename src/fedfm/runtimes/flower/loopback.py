"""A whole Flower federation on this machine's loopback: SuperLink, SuperNodes, and a worker that stays beside each.

As on real machines: TLS, nodes that are known by their keys, apps in processes of their own, nothing fetched, nothing
reported to anybody. Everything lies in a folder of its own, which goes with the federation.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

from fedfm.errors import TooFewClientsError
from fedfm.runtimes.flower.apps import SOCKET
from fedfm.runtimes.flower.control import Control
from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, new_certificates, new_key
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.runtimes.relay import RelayLine
from fedfm.runtimes.settings import Flower

START = 60.0
"""Seconds that the federation has to be there."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Settings of Flower's processes: nothing is reported, fetched or installed."""


class LoopbackLine(RelayLine):
    """A line to the nodes of a federation that ends with it."""

    def __init__(self, settings: Flower) -> None:
        """Starts a federation with as many nodes as the settings say.

        Raises:
            TooFewClientsError: a process of it ended or did not answer.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="fedfm-"))
        environment = {**QUIET, "FLWR_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}
        self._supervisor = Supervisor(self.folder, environment)
        super().__init__(
            self.folder / "relay.sock",
            nodes=settings.nodes,
            patience=START,
            deadline=settings.deadline,
            check=self._supervisor.check,
        )
        try:
            with _environment(environment):
                self._start(settings.nodes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all processes and removes what they wrote."""
        super().close()
        self._supervisor.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, nodes: int) -> None:
        tls, secret, ports = self.folder / "tls", self.folder / "secret", _free_ports(1 + nodes)
        address, start = f"127.0.0.1:{ports[0]}", self._supervisor.start
        new_certificates(tls, ["localhost", "127.0.0.1"])
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32))
        trust = ["--root-certificates", str(tls / AUTHORITY)]
        start(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(ports[0]),
            "--ssl-ca-certfile", str(tls / AUTHORITY), "--ssl-certfile", str(tls / CERTIFICATE),
            "--ssl-keyfile", str(tls / KEY), "--enable-supernode-auth", "--isolation", "process",
            "--superexec-auth-secret-file", str(secret), "--database", str(self.folder / "superlink.db"),
        )  # fmt: skip
        self._wait_for(address, tls / AUTHORITY)
        start(
            "superexec", "flower-superexec", "--runtime-api-address", address, *trust,
            "--superexec-auth-secret-file", str(secret),
        )  # fmt: skip
        control = Control(address, tls / AUTHORITY)
        for number, port in enumerate(ports[1:], start=1):
            key, path = self.folder / f"node-{number}.key", self.folder / f"node-{number}.sock"
            new_key(key)
            control.register(key.with_name(f"{key.name}.pub"))
            start(f"worker {number}", sys.executable, "-m", "fedfm.sites.resident", str(path))
            start(
                f"supernode {number}", "flower-supernode", "--superlink", address, *trust,
                "--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(port),
                "--node-config", f'{SOCKET}="{path}"',
            )  # fmt: skip
        control.start(self.path)

    def _wait_for(self, address: str, authority: Path) -> None:
        """Waits until the SuperLink answers."""
        end = time.monotonic() + START
        with httpx.Client(verify=str(authority)) as client:
            while time.monotonic() < end:
                self._supervisor.check()
                with suppress(httpx.HTTPError):
                    if client.get(f"https://{address}/health").is_success:
                        return
                time.sleep(0.1)
        words = self._supervisor.last_words("superlink")
        raise TooFewClientsError(f"the superlink did not answer within {START:g} seconds{words}")


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Flower's own calls in this process read the environment too."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
