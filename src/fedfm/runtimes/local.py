"""The local runtime: clients are trained in this process."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from fedfm.clients import Worker
from fedfm.proxies.base import ModelVersion
from fedfm.updates import Failure


@dataclass(frozen=True)
class LocalRuntime:
    """Hands messages to a worker in this process; answers come in the order of the clients asked."""

    worker: Worker

    def hand_out(self, clients: Sequence[str], version: ModelVersion) -> None:
        """All clients of this process share one proxy, which thus is the latest that any of them holds."""
        if clients and self.worker.proxy is not None:
            self.worker.proxy.download(version)

    def exchange(self, messages: Mapping[str, bytes]) -> Generator[tuple[str, bytes | Failure]]:
        """Trains lazily: a caller that stops iterating stops the training."""
        return self.worker.train(messages)

    def close(self) -> None:
        """Nothing is held."""
