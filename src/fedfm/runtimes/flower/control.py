"""What a server asks of its SuperLink: to let nodes with certain keys join, and to start and end the relay.

Flower offers these on its own command line only. This module imports private parts of Flower; no other module does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization.ssh import load_ssh_public_key
from flwr.cli.build import build_fab_from_files
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedfm import __version__
from fedfm.runtimes.flower.control_auth import TokenSender

PROJECT = f"""\
[project]
name = "fedfm"
version = "{__version__}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedfm"

[tool.flwr.app.components]
serverapp = "fedfm:installed"
clientapp = "fedfm:installed"
"""
"""The bundle of a relay's run, with the fields that Flower requires. Nothing in it is used (`installed`)."""


class Control:
    """A SuperLink's control interface; every call is a connection of its own."""

    def __init__(self, address: str, certificate: Path, secret: Path) -> None:
        """An interface.

        Args:
            address: host and port of the SuperLink.
            certificate: of the authority that signed the SuperLink's certificate.
            secret: file of the secret that the SuperLink was started with.
        """
        self._secret = secret
        self._connection = SuperLinkConnection(
            name="fedfm", address=address, root_certificates=str(certificate), insecure=False
        )

    def admit(self, keys: Mapping[str, Path]) -> dict[str, str]:
        """Lets the nodes with these keys join, if they were not admitted before.

        Args:
            keys: name of a node → its public key (OpenSSH format, a NIST curve).

        Returns:
            Flower's number of each node → its name.
        """
        wanted = {public_key_to_bytes(load_ssh_public_key(path.read_bytes())): name for name, path in keys.items()}  # type: ignore[arg-type]
        known = {}
        with self._connected() as client:
            for node in client.ListNodes(ListNodesRequest()).nodes_info:
                if node.public_key in wanted:
                    known[str(node.node_id)] = wanted.pop(node.public_key)
            for key, name in wanted.items():
                known[str(client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id)] = name
        return known

    def start(self) -> int:
        """Starts a relay to the socket that the SuperExec was started with; returns Flower's id of its run."""
        content, _ = build_fab_from_files({"pyproject.toml": PROJECT.encode()})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        with self._connected() as client:
            return int(client.StartRun(StartRunRequest(fab=fab_to_proto(fab))).run_id)

    def stop(self, run: int) -> None:
        """Ends a relay's run, so that nodes stop working for it; does nothing if the run has ended."""
        with self._connected() as client, suppress(httpx.HTTPStatusError):
            client.StopRun(StopRunRequest(run_id=run))

    @contextmanager
    def _connected(self) -> Iterator[ControlHttpClient]:
        with redirect_stdout(StringIO()):  # it prints where it connects to
            client = init_http_client_from_connection(self._connection, TokenSender(self._secret))
        with closing(client):  # a SuperLink waits for open connections before it ends
            yield client
