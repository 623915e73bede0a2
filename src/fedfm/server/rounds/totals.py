"""Counts of a round's answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedfm.params import Params
from fedfm.protocols import ClientUpdate
from fedfm.server.rounds.state import StateVersion


@dataclass
class Totals:
    """Counts of one round.

    Attributes:
        losses: mean loss a prediction, and over how many, of each sound training update that predicted anything.
        examples: training examples of the clients with a sound update.
        accepted: sound answers, updates and others.
        updates: sound answers of clients that trained.
        failed: clients that could not answer.
        refused: updates that were refused.
        steps: local steps of sound updates.
        samples: examples that these steps processed.
        bytes_down: bytes sent to clients.
        bytes_up: bytes received from clients.
        trained: clients with a sound update.
        holds: clients with a sound answer → the version of the proxy that it was made with.
        downloaded: clients that got a proxy in this round → its version.
        stale: clients whose proxy could not be brought up to date.
        activity: counts of neurons' use, summed over clients.
        versions: clients with a sound update → the version of what they keep from now on.
        figures: of the round's training, beside its loss.
    """

    losses: list[tuple[float, int]] = field(default_factory=list)
    examples: int = 0
    accepted: int = 0
    updates: int = 0
    failed: int = 0
    refused: int = 0
    steps: int = 0
    samples: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    trained: set[str] = field(default_factory=set)
    holds: dict[str, int] = field(default_factory=dict)
    downloaded: dict[str, int] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    activity: Params = field(default_factory=dict)
    versions: dict[str, StateVersion] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def add_mean(self, update: ClientUpdate) -> None:
        """Adds what the clients of a mean did."""
        facts, clients = update.facts, update.summed
        self.updates += len(clients)
        self.steps += facts.steps
        self.samples += facts.samples
        self.examples += facts.examples
        if facts.predictions and facts.loss is not None:
            self.losses.append((facts.loss, facts.predictions))
        self.trained |= set(clients)

    @property
    def loss(self) -> float | None:
        """Mean training loss a prediction, over all sound updates; None where nothing was predicted."""
        predictions = sum(count for _, count in self.losses)
        return sum(loss * count for loss, count in self.losses) / predictions if predictions else None
