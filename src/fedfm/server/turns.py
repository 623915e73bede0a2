"""Whose update is folded when; those that wait for their turn wait on disk where they are large."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from fedfm.records.disk import storage
from fedfm.updates import Failure

IN_MEMORY = 2**20
"""Bytes of an answer that waits in memory, at most."""


class Turns:
    """Clients' turns: in the order in which they were asked, or, where the first few are enough, as they come."""

    def __init__(self, order: Sequence[str], *, as_they_come: bool) -> None:
        self._order, self._as_they_come = list(order), as_they_come
        self._early: dict[str, bytes | IO[bytes] | Failure] = {}

    def after(self, client: str, answer: bytes | Failure) -> Iterator[tuple[str, bytes | Failure]]:
        """Those whose turn it is once this one has answered.

        Raises:
            StorageError: there is no room for an answer that has to wait.
        """
        if self._as_they_come or client == self._order[0]:
            self._order.remove(client)
            yield client, answer
        else:
            self._early[client] = _laid_by(answer)
        while self._order and self._order[0] in self._early:
            yield self._next()

    def left(self) -> Iterator[tuple[str, bytes | Failure | None]]:
        """Those whose turn has not come; None for who has not answered."""
        while self._order:
            yield self._next() if self._order[0] in self._early else (self._order.pop(0), None)

    def _next(self) -> tuple[str, bytes | Failure]:
        client = self._order.pop(0)
        return client, _fetched(self._early.pop(client))


def _laid_by(answer: bytes | Failure) -> bytes | IO[bytes] | Failure:
    if isinstance(answer, Failure) or len(answer) <= IN_MEMORY:
        return answer
    with storage(Path(tempfile.gettempdir()), "keep an update in"):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open until its turn comes
        file.write(answer)
        file.flush()
        return file


def _fetched(answer: bytes | IO[bytes] | Failure) -> bytes | Failure:
    if isinstance(answer, bytes | Failure):
        return answer
    with answer:
        answer.seek(0)
        return answer.read()
