"""Flower's apps run what is installed here, and nothing that a run brings.

A run carries a bundle of code for server and nodes, which Flower unpacks and imports. Here ``flwr-serverapp`` is
`fedfm.runtimes.flower.apps.relay` and ``flwr-clientapp`` is `fedfm.runtimes.flower.apps.client_app`, whatever the
bundle holds; where their sockets are is said on their command lines, and not by the run.
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
    """Runs as ``flwr-serverapp SOCKET …`` or ``flwr-clientapp SOCKET …``, as the command line begins.

    A client app is started for every message, so nothing is imported but what it needs: with Flower's own program come
    those of the SuperNode and their databases, which doubles the time.
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
    """What runs a ClientApp, once what unpacks a bundle and finds an app in it is replaced."""
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
    """What runs a ServerApp, likewise."""
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
    words: Queue[str | None] = Queue()  # that would be uploaded
    return lambda **settings: program.run_serverapp(log_queue=words, **settings)


def _nothing(*given: object, **named: object) -> None:
    """In place of what unpacks a bundle."""
