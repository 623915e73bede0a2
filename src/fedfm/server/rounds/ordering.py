"""The order in which replies are folded; large replies that wait for their turn wait on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fedfm.spill import Spilled
from fedfm.updates import Reply

IN_MEMORY = 2**20
"""Bytes of a reply that waits in memory, at most."""


class Ordering:
    """Orders replies as their clients were asked, or, where the first few are enough, as they arrive."""

    def __init__(self, order: Sequence[str], *, as_they_come: bool) -> None:
        self._order, self._as_they_come = list(order), as_they_come
        self._early: dict[str, Reply] = {}

    def after(self, client: str, reply: Reply) -> Iterator[tuple[str, Reply]]:
        """Replies that can be folded now that this one is there.

        Raises:
            StorageError: there is no room for a reply that has to wait.
        """
        if self._as_they_come or client == self._order[0]:
            self._order.remove(client)
            yield client, reply
        else:
            if isinstance(reply.content, bytes) and len(reply.content) > IN_MEMORY:
                reply = replace(reply, content=Spilled([reply.content]))
            self._early[client] = reply
        while self._order and self._order[0] in self._early:
            yield self._next()

    def left(self) -> Iterator[tuple[str, Reply | None]]:
        """Replies that are not yet folded; None for clients that have not replied."""
        while self._order:
            yield self._next() if self._order[0] in self._early else (self._order.pop(0), None)

    def _next(self) -> tuple[str, Reply]:
        client = self._order.pop(0)
        return client, self._early.pop(client)
