"""Nodes as actors of a Ray cluster: simulation on several machines, each actor with one backbone in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from fedfm.errors import RecipeError
from fedfm.runtimes.base import LOOK
from fedfm.runtimes.envelopes import Envelope, EnvelopeError, Replies
from fedfm.runtimes.line import Part
from fedfm.runtimes.settings import Ray

_NAMESPACE = "fedfm"


class ActorLine:
    """A line to the actors of a cluster; what they train is streamed back as it is ready."""

    def __init__(self, settings: Ray, worker: type) -> None:
        """Joins or starts a cluster and places actors on it.

        Args:
            settings: the recipe's ``runtime``.
            worker: class of an actor's worker; its method ``handle`` takes an envelope and yields parts of the answer.

        Raises:
            RecipeError: at ``runtime.address`` when no cluster is there; at ``runtime.nodes`` when it has no room for
                so many actors, for which Ray would wait silently.
        """
        try:
            ray.init(
                address=settings.address or "local",  # None would take a cluster that happens to run here
                namespace=_NAMESPACE,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RecipeError(f"no Ray cluster can be used there: {error}", where="runtime.address") from error
        self.deadline = settings.deadline
        self._checks: list[Callable[[], None]] = []
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        kind = "GPU" if resources.get("GPU") else "CPU"
        share = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
        room = int(resources[kind])
        count = settings.nodes or room
        if count > room:
            ray.shutdown()
            raise RecipeError(f"the cluster has room for {room} actors ({room} {kind}s)", where="runtime.nodes")
        actor = ray.remote(_Actor).options(**share, max_restarts=-1, scheduling_strategy="SPREAD")
        self._actors: dict[str, Any] = {f"{number:04d}": actor.remote(worker) for number in range(1, count + 1)}
        self._streams: dict[Any, tuple[str, float, float]] = {}  # stream → node, seconds that it has, and when they end

    def nodes(self, *, wait: bool = True) -> list[str]:
        """The actors; Ray restarts those that die."""
        return list(self._actors)

    def push(self, node: str, envelope: Envelope, *, most: int | None, within: float | None = None) -> None:
        """As `Line.push`; the answers of a run's own actors may have any size."""
        seconds = self.deadline if within is None else within
        seconds = float("inf") if seconds is None else seconds
        handle = self._actors[node].handle.options(num_returns="streaming")
        stream = handle.remote(envelope.text, envelope.contents)
        self._streams[stream] = node, seconds, time.monotonic() + seconds

    def pull(self, timeout: float | None = None) -> Part | None:
        """As `Line.pull`."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while self._streams:
            now = time.monotonic()
            for stream, (node, seconds, end) in self._streams.items():
                if now >= end:
                    self._cancel(stream)
                    return Part.lost(node, f"no answer within {seconds:g} seconds", late=True)
            left = min(until, *(end for _, _, end in self._streams.values())) - now
            ready, _ = ray.wait(list(self._streams), num_returns=1, timeout=max(0.0, min(LOOK, left)))
            if ready:
                return self._next(ready[0])
            if now >= until:
                break
            for check in self._checks:
                check()
        return None

    def drop(self) -> None:
        """As `Line.drop`; actors stop what they train."""
        for stream in list(self._streams):
            self._cancel(stream)

    def attend(self, check: Callable[[], None]) -> None:
        """As `Line.attend`."""
        self._checks.append(check)

    def close(self) -> None:
        """Leaves the cluster, or ends it where it was started for this run."""
        for actor in self._actors.values():
            ray.kill(actor)
        ray.shutdown()

    def _next(self, stream: Any) -> Part:
        """The next part of a stream, which is there."""
        node, _, _ = self._streams[stream]
        try:
            text, blobs = ray.get(next(stream))
            envelope = Envelope.of(text, blobs)
        except StopIteration:
            del self._streams[stream]
            return Part.end(node)
        except (ray.exceptions.RayError, EnvelopeError) as error:
            del self._streams[stream]
            said = str(error).splitlines() or [type(error).__name__]
            return Part.lost(node, said[0])
        if not isinstance(envelope.head, Replies):  # such an answer has one part
            del self._streams[stream]
            return Part(node, envelope)
        return Part(node, envelope, last=False)

    def _cancel(self, stream: Any) -> None:
        del self._streams[stream]
        ray.cancel(stream)


class _Actor:
    """A worker in an actor."""

    def __init__(self, worker: type) -> None:
        self.worker = worker()

    def handle(self, text: str, blobs: tuple[bytes, ...]) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """Parts of the answer, as plain data."""
        for part in self.worker.handle(Envelope.of(text, blobs)):
            yield part.text, part.contents

    def __repr__(self) -> str:
        return "fedfm"
