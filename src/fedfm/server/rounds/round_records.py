"""The records of a round, and its time by phase."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm.records.folder import RunFolder


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
    """

    folder: RunFolder
    number: int
    watch: Stopwatch
    metrics: list[dict[str, Any]] = field(default_factory=list)
    wire: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def event(self, kind: str, client: str | None, reason: str, **more: str) -> None:
        """Adds an event of the round."""
        self.events.append({"round": self.number, "kind": kind, "client": client, "reason": reason, **more})

    def write(self) -> None:
        """Appends everything to the run's files."""
        folder = self.folder
        for file, lines in ((folder.metrics, self.metrics), (folder.wire, self.wire), (folder.events, self.events)):
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
