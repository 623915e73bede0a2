"""Whose update is folded when; those that wait for their turn wait on disk where they are large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedfm.spill import Spilled
from fedfm.updates import Failure

Answer = bytes | Spilled | Failure
"""The content of a reply."""

IN_MEMORY = 2**20
"""Bytes of an answer that waits in memory, at most."""


class Ordering:
    """Clients' turns: in the order in which they were asked, or, where the first few are enough, as they come."""

    def __init__(self, order: Sequence[str], *, as_they_come: bool) -> None:
        self._order, self._as_they_come = list(order), as_they_come
        self._early: dict[str, Answer] = {}

    def after(self, client: str, answer: Answer) -> Iterator[tuple[str, Answer]]:
        """Those whose turn it is once this one has answered.

        Raises:
            StorageError: there is no room for an answer that has to wait.
        """
        if self._as_they_come or client == self._order[0]:
            self._order.remove(client)
            yield client, answer
        else:
            if isinstance(answer, bytes) and len(answer) > IN_MEMORY:
                answer = Spilled([answer])
            self._early[client] = answer
        while self._order and self._order[0] in self._early:
            yield self._next()

    def left(self) -> Iterator[tuple[str, Answer | None]]:
        """Those whose turn has not come; None for who has not answered."""
        while self._order:
            yield self._next() if self._order[0] in self._early else (self._order.pop(0), None)

    def _next(self) -> tuple[str, Answer]:
        client = self._order.pop(0)
        return client, self._early.pop(client)
