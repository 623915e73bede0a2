"""What a runtime is: it carries one instruction to many clients and their answers back, as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fedfm.updates import Failure


class Runtime(Protocol):
    """Carries messages; knows nothing of what is in them."""

    def exchange(self, clients: Sequence[str], message: bytes) -> Iterator[tuple[str, bytes | Failure]]:
        """Sends ``message`` to every client and yields (client id, answer) as answers come in."""
        ...
