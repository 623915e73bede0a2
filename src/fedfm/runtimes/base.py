"""What a runtime is: it carries instructions to clients and their answers back, as bytes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

from fedfm.proxies.base import ModelVersion
from fedfm.spill import Spilled
from fedfm.updates import Failure

Answer = bytes | Spilled | Failure
"""The bytes of an update, in memory or on disk, or why there is none."""


class Runtime(Protocol):
    """Carries messages; knows nothing of what is in them."""

    def hand_out(self, clients: Sequence[str], version: ModelVersion) -> None:
        """Lets clients download a proxy as it is now, before they are asked to train on it.

        Args:
            clients: that have none, perhaps nobody: a runtime whose nodes come and go wants to know it all the same.
            version: the latest.
        """
        ...

    def exchange(self, messages: Mapping[str, bytes]) -> Generator[tuple[str, Answer]]:
        """Sends every client its message and yields (client id, answer) as answers come in.

        A caller that has enough closes it: answers that are still to come are for nobody.

        Args:
            messages: client id → message; most clients share one object.
        """
        ...

    def close(self) -> None:
        """Lets go of what it holds; nothing is exchanged after that."""
        ...
