"""Flower's processes at a site run what is installed there, and nothing that a server ships.

A run carries a bundle of code for its nodes, which Flower unpacks and imports. Here programs of the same names, found
first, take its place: ``flwr-clientapp`` answers with `fedfm.runtimes.flower.apps.client_app` whatever the bundle
holds, and all other kinds of task end at once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

OURS = "flwr-clientapp"
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")


def write_programs(folder: Path) -> None:
    """Writes the programs into a folder, which is made; who starts a SuperNode puts it first on the path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = dict.fromkeys(REFUSED, "exit 1")
    lines[OURS] = f'exec {shlex.quote(sys.executable)} -m fedfm.runtimes.flower.installed "$@"'
    for name, line in lines.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o700)


def main() -> None:
    """Runs as ``flwr-clientapp``, with the app that is installed here.

    It is started for every message, so nothing is imported but what it needs: with Flower's own program come those of
    the SuperNode and their databases, which doubles the time.
    """
    from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.runtime import run_clientapp

    from fedfm.runtimes.flower.apps import client_app

    for name, instead in {"install_from_fab": _nothing, "get_load_client_app_fn": _always(client_app)}.items():
        if not hasattr(run_clientapp, name):
            raise RuntimeError(f"this version of Flower has no {name}: what it would run is not known")
        setattr(run_clientapp, name, instead)
    parser = argparse.ArgumentParser(prog=OURS)
    parser.add_argument("--runtime-api-address", required=True)
    add_args_flwr_app_common(parser)
    asked = parser.parse_args()
    run_clientapp.run_clientapp(
        runtime_api_address=asked.runtime_api_address,
        token=try_obtain_flwr_app_token(asked),
        insecure=asked.insecure,
        certificates=validate_and_resolve_root_certificates(asked.root_certificates, asked.insecure),
        parent_pid=asked.parent_pid,
        runtime_dependency_install=asked.runtime_dependency_install,
    )


def _nothing(*given: object, **named: object) -> None:
    """In place of what unpacks a bundle."""


def _always(app: object) -> Callable[..., Callable[..., object]]:
    """In place of what finds an app in a bundle."""
    return lambda *given, **named: lambda *of: app


if __name__ == "__main__":
    main()
