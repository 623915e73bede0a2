"""The local runtime: clients are trained in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedfm.clients import Worker
from fedfm.updates import Failure


@dataclass(frozen=True)
class LocalRuntime:
    """Hands messages to a worker in this process; answers come in the order of the clients asked."""

    worker: Worker

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Failure]]:
        """Trains lazily: a caller that stops iterating stops the training."""
        return self.worker.train(messages)
