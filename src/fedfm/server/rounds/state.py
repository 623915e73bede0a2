"""What the server holds between rounds: everything that a resumed run needs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedfm.algorithms import ServerState
from fedfm.params import Params
from fedfm.protocols import State
from fedfm.proxies.base import ModelVersion
from fedfm.server.rounds.participation import Participation, Participations


@dataclass(frozen=True)
class Best:
    """The best round so far by the headline metric.

    Attributes:
        round: its number.
        split: where it was measured: ``validation`` where there is one, else ``test``, or ``clients``.
        scores: split → loss and metrics of that round.
        proxy_version: of the proxy that clients trained on in it.
    """

    round: int
    split: str
    scores: dict[str, dict[str, float]]
    proxy_version: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Loss and metrics by which it is the best."""
        return self.scores[self.split]


@dataclass(frozen=True)
class Delivered:
    """What a run hands out.

    Attributes:
        params: the tunable.
        round: the round after which the tunable had these values.
        metrics: the latest scores of these values.
        evaluated: the round in which they were measured.
    """

    params: Params
    round: int
    metrics: dict[str, float]
    evaluated: int


@dataclass(frozen=True)
class StateVersion:
    """A version of what a client keeps.

    Attributes:
        number: the round in which the client made it.
        sha256: hex digest of its bytes.
    """

    number: int
    sha256: str


@dataclass(frozen=True)
class Refined:
    """The backbone's tunable after what is done once training is over.

    Attributes:
        params: the backbone's tunable; empty where the plug-in stayed as it was.
        scores: split → loss and metrics with it; empty likewise.
    """

    params: Params = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """The run after some rounds.

    Attributes:
        protocol: what the protocol keeps: the rounds done, the tunable w, the algorithm's state.
        initial: split → loss and metrics before round 1.
        latest: split → loss and metrics at the last evaluation.
        evaluated: the round of ``latest``.
        best: the best round so far.
        best_params: its tunable, kept only when the recipe stops early.
        failed: clients that could not answer, summed over rounds.
        refused: updates refused, summed over rounds.
        bytes_down: bytes sent to clients.
        bytes_up: bytes received from clients.
        samples: training examples processed.
        steps: local optimiser steps of all clients in each round, for baselines of the same budget.
        seconds: wall time by phase: ``train``, ``evaluate``, ``aggregate``, ``wire``, ``proxy``, ``total``.
        proxy: the part of the clients' model that may change.
        holders: client id → the version of the proxy that it holds; clients that have none are not in it.
        activity: counts of neurons' use from the last round, where clients were asked for them.
        contributions: what each client contributed.
        versions: client id → the version of what it keeps; clients that keep nothing are not in it.
        refined: what became of the plug-in after the last round; None before that.
        tasks: client, empty for the test set → values on the tasks of a stream before round 1 and after each of them.
    """

    protocol: State
    initial: dict[str, dict[str, float]] = field(default_factory=dict)
    latest: dict[str, dict[str, float]] = field(default_factory=dict)
    evaluated: int = 0
    best: Best | None = None
    best_params: Params = field(default_factory=dict)
    failed: int = 0
    refused: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    samples: int = 0
    steps: tuple[int, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    proxy: ModelVersion | None = None
    holders: dict[str, int] = field(default_factory=dict)
    activity: Params = field(default_factory=dict)
    contributions: Participations = field(default_factory=dict)
    versions: dict[str, StateVersion] = field(default_factory=dict)
    refined: Refined | None = None
    tasks: Mapping[str, list[dict[str, float]]] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """Rounds done."""
        return self.protocol.round

    @property
    def params(self) -> Params:
        """The tunable w."""
        return self.protocol.params

    def knows(self, client: str) -> bool:
        """Whether a client was asked to train, holds the proxy or keeps something."""
        return any(client in known for known in (self.contributions, self.holders, self.versions))

    def delivered(self, split: str = "test") -> Delivered:
        """The best round's outcome where the run stops early, else the last round's, with its scores on a split.

        The scores are those of the plug-in before anything was done to it; see `refined`.
        """
        if (best := self.best) is not None and self.best_params:
            return Delivered(self.best_params, best.round, best.scores.get(split, {}), best.round)
        return Delivered(self.params, self.round, self.latest.get(split, {}), self.evaluated)

    def numbers(self) -> dict[str, Any]:
        """All that is not a tensor, as JSON."""
        return {
            "round": self.round,
            "initial": self.initial,
            "latest": self.latest,
            "evaluated": self.evaluated,
            "best": None if self.best is None else vars(self.best),
            "failed": self.failed,
            "refused": self.refused,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            "samples": self.samples,
            "steps": list(self.steps),
            "seconds": self.seconds,
            "proxy_version": None if self.proxy is None else self.proxy.number,
            "holders": self.holders,
            "contributions": {client: asdict(of) for client, of in self.contributions.items()},
            "protocol": dict(self.protocol.facts),
            "versions": {client: asdict(version) for client, version in self.versions.items()},
            "tasks": dict(self.tasks),
            "refined": None if self.refined is None else self.refined.scores,
        }

    @classmethod
    def restore(
        cls,
        numbers: dict[str, Any],
        params: Params,
        server: ServerState,
        best_params: Params,
        proxy: ModelVersion | None,
        activity: Params,
        refined: Params,
    ) -> RunState:
        """The inverse of `numbers` and the tensors."""
        rest = {name: value for name, value in numbers.items() if name not in ("proxy_version", "round")}
        best = numbers["best"]
        return cls(
            **{
                **rest,
                "protocol": State(numbers["round"], params, server, numbers["protocol"]),
                "best": None if best is None else Best(**best),
                "steps": tuple(numbers["steps"]),
                "best_params": best_params,
                "proxy": proxy,
                "activity": activity,
                "contributions": {client: Participation(**of) for client, of in numbers["contributions"].items()},
                "versions": {client: StateVersion(**version) for client, version in numbers["versions"].items()},
                "refined": None if numbers["refined"] is None else Refined(refined, numbers["refined"]),
            }
        )
