"""A whole Flower federation on this machine's loopback: SuperLink, SuperNodes, and a worker that stays beside each.

As on real machines: TLS, nodes that are known by their keys, apps in processes of their own, nothing fetched, nothing
reported to anybody. Everything lies in a folder of its own, which goes with the federation.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx

from fedfm.errors import FedfmError
from fedfm.runtimes.flower.apps import SOCKET
from fedfm.runtimes.flower.control import Control
from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, new_certificates, new_key
from fedfm.runtimes.parcels import Parcel
from fedfm.runtimes.relay import RelayLine
from fedfm.runtimes.settings import Flower

START, STOP = 60.0, 10.0
"""Seconds that processes have to start, and to end when they are told to."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Settings of Flower's processes: nothing is reported, fetched or installed."""


class FlowerError(FedfmError):
    """A process of Flower's did not do what it should; the message says which, and shows its last words."""


class Federation:
    """Processes of a federation, and the line to its nodes."""

    def __init__(self, settings: Flower) -> None:
        """Starts a federation with as many nodes as the settings say.

        Raises:
            FlowerError: a process of it ended or did not answer.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="fedfm-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._line: RelayLine | None = None
        try:
            self._line = self._start(settings)
        except BaseException:
            self.close()
            raise

    def nodes(self) -> tuple[str, ...]:
        """The nodes that are online."""
        return self._relay.nodes()

    def send(self, parcels: Mapping[str, Parcel]) -> Iterator[tuple[str, Parcel | str]]:
        """Sends nodes their parcels and yields what they answer."""
        return self._relay.send(parcels)

    def close(self) -> None:
        """Ends all processes and removes what they wrote."""
        if self._line is not None:
            self._line.close()
        for process in reversed(self._processes.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        end = time.monotonic() + STOP
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _relay(self) -> RelayLine:
        if self._line is None:
            raise RuntimeError("the federation has ended")
        return self._line

    def _start(self, settings: Flower) -> RelayLine:
        tls, secret, ports = self.folder / "tls", self.folder / "secret", _free_ports(1 + settings.nodes)
        address = f"127.0.0.1:{ports[0]}"
        new_certificates(tls, ["localhost", "127.0.0.1"])
        secret.write_text(secrets.token_hex(32))
        secret.chmod(0o600)
        trust = ["--root-certificates", str(tls / AUTHORITY)]
        self._run(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", str(ports[0]),
            "--ssl-ca-certfile", str(tls / AUTHORITY), "--ssl-certfile", str(tls / CERTIFICATE),
            "--ssl-keyfile", str(tls / KEY), "--enable-supernode-auth", "--isolation", "process",
            "--superexec-auth-secret-file", str(secret), "--database", str(self.folder / "superlink.db"),
        )  # fmt: skip
        self._wait_for(address, tls / AUTHORITY)
        self._run(
            "superexec", "flower-superexec", "--runtime-api-address", address, *trust,
            "--superexec-auth-secret-file", str(secret),
        )  # fmt: skip
        os.environ.update(QUIET | {"FLWR_HOME": str(self.folder / "home")})  # of the calls to come, in this process
        control = Control(address, tls / AUTHORITY)
        for number, port in enumerate(ports[1:], start=1):
            key, path = self.folder / f"node-{number}.key", self.folder / f"node-{number}.sock"
            new_key(key)
            control.register(key.with_name(f"{key.name}.pub"))
            self._run(f"worker {number}", sys.executable, "-m", "fedfm.sites.resident", str(path))
            self._run(
                f"supernode {number}", "flower-supernode", "--superlink", address, *trust,
                "--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(port),
                "--node-config", f'{SOCKET}="{path}"',
            )  # fmt: skip
        path = self.folder / "relay.sock"
        line = RelayLine(path, nodes=settings.nodes, patience=START, deadline=settings.deadline, check=self._check)
        control.start(path)
        return line

    def _run(self, name: str, *command: str) -> None:
        """Starts a process in a group of its own, its words in a file."""
        tools = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])  # Flower's find each other
        environment = {**os.environ, **QUIET, "FLWR_HOME": str(self.folder / "home"), "PATH": tools}
        with (self.folder / f"{name}.log").open("wb") as words:
            self._processes[name] = subprocess.Popen(
                [shutil.which(command[0], path=tools) or command[0], *command[1:]],
                stdout=words,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def _wait_for(self, address: str, authority: Path) -> None:
        end = time.monotonic() + START
        with httpx.Client(verify=str(authority)) as client:
            while time.monotonic() < end:
                self._check()
                with suppress(httpx.HTTPError):
                    if client.get(f"https://{address}/health").is_success:
                        return
                time.sleep(0.1)
        raise FlowerError(f"the SuperLink did not answer within {START:g} seconds{self._last_words('superlink')}")

    def _check(self) -> None:
        """Raises where a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise FlowerError(f"the {name} ended with code {process.returncode}{self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-10:]
        return "".join(f"\n  {line}" for line in lines)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
