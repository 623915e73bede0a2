"""A whole Flower federation on this machine's loopback: SuperLink, SuperNodes, and a worker that stays beside each.

As on real machines: TLS, nodes that are known by their keys, apps in processes of their own, nothing fetched, nothing
reported to anybody. Everything lies in a folder of its own, which goes with the federation.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from fedfm.runtimes.flower.keys import AUTHORITY, new_certificates, new_key
from fedfm.runtimes.flower.superlink import RELAY, START, environment, start_superlink, within
from fedfm.runtimes.flower.supernode import free_ports, start_supernode
from fedfm.runtimes.flower.supervisor import Supervisor
from fedfm.runtimes.relay import RelayLine
from fedfm.runtimes.settings import Flower


class LoopbackLine(RelayLine):
    """A line to the nodes of a federation that ends with it."""

    worker = ("-m", "fedfm.hosts.resident")
    """How Python is told to be a node's worker; the path of its socket follows."""

    def __init__(self, settings: Flower) -> None:
        """Starts a federation with as many nodes as the settings say.

        Raises:
            TooFewClientsError: a process of it ended or did not answer.
        """
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
        """Ends all processes and removes what they wrote."""
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
            self._sites.start(f"worker of {name}", sys.executable, *self.worker, str(worker))
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
