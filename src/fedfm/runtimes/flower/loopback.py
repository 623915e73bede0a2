"""A whole Flower federation on this machine's loopback: SuperLink, SuperNodes, and a worker that stays beside each.

It works as on real machines: TLS, nodes that are identified by their keys, apps in processes of their own, no
downloads, no telemetry. All files are in a folder of its own, which is removed with the federation.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from fedfm.errors import RecipeError
from fedfm.runtimes.flower.keys import AUTHORITY, new_certificates, new_key
from fedfm.runtimes.flower.superlink import RELAY, START, environment, start_superlink, within
from fedfm.runtimes.flower.supernode import free_ports, start_supernode
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.runtimes.relay import RelayLine
from fedfm.runtimes.settings import Flower

WORKERS, WORKER = "fedfm.workers", "simulated"
"""Group and name of the entry point whose module is a node's worker; it takes the path of a socket as its argument."""


class LoopbackLine(RelayLine):
    """A line to the nodes of a federation that ends with it."""

    def __init__(self, settings: Flower, worker: Sequence[str] | None = None) -> None:
        """Starts a federation with as many nodes as the settings say.

        Args:
            settings: the recipe's ``runtime``.
            worker: Python's arguments for a node's worker, without the path of its socket; None: the entry point's.

        Raises:
            TooFewClientsError: a process of the federation ended or did not answer.
            RecipeError: at ``runtime.kind`` when no worker is installed.
        """
        self._worker = tuple(worker or installed_worker())
        self.folder = Path(tempfile.mkdtemp(prefix="fedfm-"))
        self._hub = Supervisor(self.folder, environment(self.folder))
        self._sites = Supervisor(self.folder, environment(self.folder))
        super().__init__(
            self.folder / RELAY,
            nodes=settings.nodes,
            patience=START,
            deadline=settings.deadline,
            check=self._check,
        )
        try:
            with within(environment(self.folder)):
                self._start(settings.nodes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends all processes and removes their files."""
        super().close()
        self._sites.close()
        self._hub.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self) -> None:
        self._hub.check()
        self._sites.check()

    def _start(self, nodes: int) -> None:
        tls, (server, *ports) = self.folder / "tls", free_ports(1 + nodes)
        new_certificates(tls, ["localhost", "127.0.0.1"])
        control = start_superlink(self._hub, self.folder, tls, server, in_memory=True)
        keys = {f"node-{number}": self.folder / f"node-{number}.key" for number in range(1, nodes + 1)}
        for key in keys.values():
            new_key(key)
        control.admit({name: key.with_name(f"{key.name}.pub") for name, key in keys.items()})
        for (name, key), port in zip(keys.items(), ports, strict=True):
            worker = self.folder / f"{name}.sock"
            self._sites.start(f"worker of {name}", sys.executable, *self._worker, str(worker))
            start_supernode(
                self._sites,
                name,
                server=f"127.0.0.1:{server}",
                authority=tls / AUTHORITY,
                key=key,
                worker=worker,
                port=port,
            )
        control.start()


def installed_worker() -> tuple[str, ...]:
    """Python's arguments for the worker that fedfm's entry point names.

    Raises:
        RecipeError: at ``runtime.kind`` when fedfm was installed without it.
    """
    for found in entry_points(group=WORKERS, name=WORKER):
        return "-m", found.module
    raise RecipeError(
        f"the entry point `{WORKER}` of `{WORKERS}` is not installed: install fedfm again", where="runtime.kind"
    )
