"""The records of a round, and its time by phase."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm.records.folder import RunFolder
from fedfm.updates import Spent


@dataclass
class Records:
    """The lines that one round adds to the run's files; written only when the round is over.

    Attributes:
        folder: of the run.
        number: the round.
        watch: the run's time.
        metrics: lines of metrics.jsonl.
        wire: lines of wire.jsonl.
        events: lines of events.jsonl.
        costs: lines of costs.jsonl.
        spent: client → what its work took.
        trained: client → steps, and examples that they processed.
    """

    folder: RunFolder
    number: int
    watch: Stopwatch
    metrics: list[dict[str, Any]] = field(default_factory=list)
    wire: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)
    trained: dict[str, tuple[int, int]] = field(default_factory=dict)

    def event(self, kind: str, client: str | None, reason: str, **more: str) -> None:
        """Adds an event of the round."""
        self.events.append({"round": self.number, "kind": kind, "client": client, "reason": reason, **more})

    def spend(self, client: str, spent: Spent | None) -> None:
        """Adds what a client's work took, where it was measured."""
        if spent is not None:
            self.spent[client] = self.spent.get(client, Spent()) + spent

    def train(self, client: str, steps: int, samples: int) -> None:
        """Adds local steps of a client, and the examples that they processed."""
        before = self.trained.get(client, (0, 0))
        self.trained[client] = before[0] + steps, before[1] + samples

    def write(self) -> None:
        """Appends everything to the run's files."""
        folder = self.folder
        files = {
            folder.metrics: self.metrics,
            folder.wire: self.wire,
            folder.costs: self.costs,
            folder.events: self.events,
        }
        for file, lines in files.items():
            for line in lines:
                folder.append(file, line)


class Stopwatch:
    """Adds wall time to named phases and to their total."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)
        self._last = time.perf_counter()

    def lap(self, phase: str) -> float:
        """Adds the time since the last lap to ``phase``; returns it."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        for name in (phase, "total"):
            self.seconds[name] = self.seconds.get(name, 0.0) + passed
        return passed
