"""What a server asks of its SuperLink: to know its nodes' keys, and to start the relay.

Flower offers these only on its own command line; what is imported here is private to it, and nowhere else.
"""

from __future__ import annotations

import hashlib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from cryptography.hazmat.primitives.serialization.ssh import load_ssh_public_key
from flwr.cli.build import build_fab_from_files
from flwr.cli.typing import SuperLinkConnection
from flwr.cli.utils import init_http_client_from_connection
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedfm import __version__
from fedfm.runtimes.flower.apps import SOCKET

_PROJECT = f"""\
[project]
name = "fedfm"
version = "{__version__}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedfm"

[tool.flwr.app.components]
serverapp = "fedfm.runtimes.flower.apps:server_app"
clientapp = "fedfm.runtimes.flower.apps:client_app"

[tool.flwr.app.config]
{SOCKET} = ""
"""
"""All that Flower ships to sites: the names of apps that are installed there."""


class Control:
    """A SuperLink's control interface."""

    def __init__(self, address: str, certificate: Path) -> None:
        """Speaks to the SuperLink at ``address``, whose certificate the authority in ``certificate`` has signed."""
        connection = SuperLinkConnection(
            name="fedfm", address=address, root_certificates=str(certificate), insecure=False
        )
        with redirect_stdout(StringIO()):  # it says where it connects to
            self._client = init_http_client_from_connection(connection)

    def register(self, public_key: Path) -> None:
        """Lets the node with this key (OpenSSH format, a NIST curve) join."""
        key = load_ssh_public_key(public_key.read_bytes())
        self._client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key)))  # type: ignore[arg-type]

    def start(self, socket: Path) -> None:
        """Starts a relay to the server that listens at ``socket``."""
        content, _ = build_fab_from_files({"pyproject.toml": _PROJECT.encode()})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        config = user_config_to_proto({SOCKET: str(socket)})
        self._client.StartRun(StartRunRequest(fab=fab_to_proto(fab), override_config=config))
