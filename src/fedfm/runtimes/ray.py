"""Nodes as actors of a Ray cluster: simulation on several machines, each actor with one backbone in memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import ray

from fedfm.errors import RecipeError
from fedfm.runtimes.envelopes import Envelope, EnvelopeError, Lost
from fedfm.runtimes.settings import Ray

_NAMESPACE = "fedfm"

LOOK = 1.0
"""Seconds between two looks whether there is still something to wait for."""


class ActorLine:
    """The way to the actors of a cluster: what they train is streamed back as it is ready."""

    def __init__(self, settings: Ray, worker: type) -> None:
        """Joins or starts a cluster and places actors on it.

        Args:
            settings: the recipe's ``runtime``.
            worker: what an actor is made of; has a method ``handle`` from a envelope to parts of its answer.

        Raises:
            RecipeError: at ``runtime.address`` when no cluster is there; at ``runtime.nodes`` when it has no room for
                so many actors, which Ray would wait for without a word.
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

    def nodes(self) -> list[str]:
        """The actors; Ray starts again those that died."""
        return list(self._actors)

    def send(
        self, envelopes: Mapping[str, Envelope], *, most: int, within: float | None = None
    ) -> Generator[tuple[str, Envelope]]:
        """Hands actors their envelopes and yields parts of their answers, of any size, as they are ready."""
        streams: dict[Any, str] = {
            self._actors[node].handle.options(num_returns="streaming").remote(envelope.text, envelope.contents): node
            for node, envelope in envelopes.items()
        }
        deadline, waited = self.deadline if within is None else within, 0.0
        try:
            while streams:
                pause = LOOK if deadline is None else min(LOOK, deadline - waited)
                ready, _ = ray.wait(list(streams), num_returns=1, timeout=pause)
                waited = 0.0 if ready else waited + pause
                if not ready and (deadline is None or waited < deadline):
                    for check in self._checks:
                        check()
                    continue
                if not ready:
                    for node in streams.values():
                        yield node, Envelope(Lost(reason=f"no answer within {deadline} seconds", late=True))
                    return
                first: Any = ready[0]
                try:
                    text, blobs = ray.get(next(first))
                    yield streams[first], Envelope.of(text, blobs)
                except StopIteration:
                    del streams[first]
                except (ray.exceptions.RayError, EnvelopeError) as error:
                    said = str(error).splitlines() or [type(error).__name__]
                    yield streams.pop(first), Envelope(Lost(reason=said[0]))
        finally:
            for stream in streams:
                ray.cancel(stream)

    def attend(self, check: Callable[[], None]) -> None:
        """Calls ``check`` now and then while actors work; what that raises ends the waiting."""
        self._checks.append(check)

    def close(self) -> None:
        """Leaves the cluster, or ends it where it was started for this run."""
        for actor in self._actors.values():
            ray.kill(actor)
        ray.shutdown()


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
