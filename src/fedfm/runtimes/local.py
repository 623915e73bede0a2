"""The local runtime: clients are trained in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from fedfm.clients import Workers
from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.base import Simulated, refuse_repeats
from fedfm.updates import Reply, Request


class LocalRuntime(Simulated):
    """Trains with a worker in this process, when a reply is asked for.

    Replies come in the order of the requests, but callers must not rely on it.
    """

    def __init__(self, worker: Workers) -> None:
        self.worker = worker
        self._waiting = deque[Sequence[Request]]()
        self._answers: Iterator[Reply] = iter(())
        self._outstanding = set[str]()

    def submit(self, requests: Sequence[Request]) -> None:
        """As `Runtime.submit`; nothing is trained yet."""
        refuse_repeats(self._outstanding, requests)
        self._outstanding |= {request.client for request in requests}
        self._waiting.append(requests)

    def next(self, timeout: float | None = None) -> Reply | None:
        """As `Runtime.next`: trains the next pass of clients, whatever the timeout is."""
        while True:
            for reply in self._answers:
                self._outstanding.discard(reply.client)
                return reply
            if not self._waiting:
                return None
            self._answers = iter(self.worker.answer(self._waiting.popleft()))

    def drop(self) -> None:
        """As `Runtime.drop`; what is not trained yet never is."""
        self._waiting.clear()
        self._answers = iter(())
        self._outstanding.clear()

    def share(self, clients: Sequence[str], version: ModelVersion) -> None:
        """As `Runtime.share`: the clients share one proxy, which thus is at the latest version that any of them has."""
        if clients:
            self.worker.own.copy.download(version)

    def attend(self, check: Callable[[], None]) -> None:
        """Does nothing: `next` never waits."""

    def close(self) -> None:
        """As `Runtime.close`."""
        self.drop()
