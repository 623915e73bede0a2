"""Flower's apps run code that is installed here, and no code that a run carries.

A run carries a bundle of code for server and nodes, which Flower unpacks and imports. Here ``flwr-serverapp`` is
`fedfm.runtimes.flower.apps.relay` and ``flwr-clientapp`` is `fedfm.runtimes.flower.apps.client_app`, whatever the
bundle holds. The paths of their sockets are on their command lines; the run does not choose them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any

from fedfm.runtimes.flower.programs import replace


def main() -> None:
    """Runs as ``flwr-serverapp SOCKET …`` or ``flwr-clientapp SOCKET …``, depending on the command line.

    A client app is started for every message, so this imports only what the app needs. Flower's own program also
    imports the SuperNode and its databases, which doubles the time.
    """
    from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
    from flwr.supercore.tls import validate_and_resolve_root_certificates

    parser = argparse.ArgumentParser(prog=sys.argv[0])
    parser.add_argument("socket", type=Path)
    parser.add_argument("--runtime-api-address", required=True)
    add_args_flwr_app_common(parser, include_token_stdin=True)
    asked = parser.parse_args()
    run = {"flwr-serverapp": _server_app, "flwr-clientapp": _client_app}[sys.argv[0]](asked.socket)
    run(
        runtime_api_address=asked.runtime_api_address,
        token=try_obtain_flwr_app_token(asked),
        insecure=asked.insecure,
        certificates=validate_and_resolve_root_certificates(asked.root_certificates, asked.insecure),
        parent_pid=asked.parent_pid,
        runtime_dependency_install=False,
    )


def _client_app(socket: Path) -> Callable[..., None]:
    """Flower's function that runs a ClientApp, without its parts that unpack a bundle and load an app from it."""
    from fedfm.runtimes.flower.apps import client_app

    program = import_module("flwr.supernode.runtime.run_clientapp")
    replace(
        program,
        install_from_fab=_nothing,
        get_load_client_app_fn=lambda **named: lambda *bundle: client_app(socket),
    )
    started: Callable[..., None] = program.run_clientapp
    return started


def _server_app(socket: Path) -> Callable[..., None]:
    """Flower's function that runs a ServerApp, without its parts that unpack a bundle and load an app from it."""
    from flwr.app import Context
    from flwr.serverapp import Grid

    from fedfm.runtimes.flower.apps import relay

    def run(*, grid: Grid, context: Context, **bundle: object) -> Context:
        relay(grid, socket)
        return context

    components: dict[str, Any] = {"tool": {"flwr": {"app": {"components": {"serverapp": ""}}}}}
    program = import_module("flwr.superlink.runtime.run_serverapp")
    replace(
        program,
        install_from_fab=_nothing,
        get_fab_metadata=lambda content: ("", ""),
        get_project_dir=lambda *bundle: Path(),
        get_project_config=lambda folder: components,
        get_fused_config_from_dir=lambda folder, override: {},
        start_log_uploader=_nothing,
        run_=run,
    )
    words: Queue[str | None] = Queue()  # log lines, which Flower would upload
    return lambda **settings: program.run_serverapp(log_queue=words, **settings)


def _nothing(*given: object, **named: object) -> None:
    """Replaces a part of Flower, and does nothing."""
