"""Asks runtimes and workers with one message for each client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedfm.clients import Worker
from fedfm.params import Params, digest
from fedfm.proxies.base import ModelVersion
from fedfm.runtimes.base import Runtime, Simulated
from fedfm.spill import Spilled
from fedfm.updates import Asked, Failure, Payload, Reply, Request
from fedfm.wire import TUNABLE

Content = bytes | Spilled | Failure


def instruction(params: Params, *, number: int = 1, lr: float = 0.01, **facts: Any) -> bytes:
    """The message of a round."""
    return Payload(number, digest(params), Asked(learning_rate=lr, **facts), {TUNABLE: params}).encode()


def requests(messages: Mapping[str, bytes]) -> list[Request]:
    return [Request(client, message) for client, message in messages.items()]


def exchanged(runtime: Runtime, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
    """What clients reply to messages, as it comes."""
    runtime.submit(requests(messages))
    while (reply := runtime.next()) is not None:
        yield reply.client, reply.content


def trained(worker: Worker, messages: Mapping[str, bytes]) -> dict[str, Content]:
    """What clients of a worker reply to messages."""
    return {reply.client: reply.content for reply in worker.answer(requests(messages))}


class Exchanging(Simulated):
    """A runtime whose replies are what `exchange` yields."""

    _replies: Iterator[tuple[str, Content]] = iter(())

    def exchange(self, messages: Mapping[str, bytes]) -> Iterator[tuple[str, Content]]:
        raise NotImplementedError

    def submit(self, requests: Sequence[Request]) -> None:
        self._replies = self.exchange({request.client: request.message for request in requests})

    def next(self, timeout: float | None = None) -> Reply | None:
        found = next(self._replies, None)
        return None if found is None else Reply(*found)

    def drop(self) -> None:
        self._replies = iter(())

    def share(self, clients: Sequence[str], version: ModelVersion) -> None: ...

    def attend(self, check: Callable[[], None]) -> None: ...

    def close(self) -> None: ...
