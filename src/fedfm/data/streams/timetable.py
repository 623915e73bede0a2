"""Which examples each client trains on in which round of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedfm.data.streams.base import StreamTasks
from fedfm.data.streams.replay import Replay


@dataclass(frozen=True, eq=False)
class Timetable:
    """The tasks of a run, in time.

    Attributes:
        tasks: in order.
        rounds: rounds of each task; the last goes on until the run ends.
        numbers: int64 [N], the task of each training example.
        replay: what clients keep of earlier tasks; None: nothing.
        seed: the run's.
    """

    tasks: StreamTasks
    rounds: int
    numbers: np.ndarray
    replay: Replay | None
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks, in order."""
        return self.tasks.names

    def task(self, round: int) -> int:  # noqa: A002 - the field's word
        """Number of the task of a 1-based round, from 0."""
        return min(max(round - 1, 0) // self.rounds, len(self.names) - 1)

    def ends(self, round: int) -> bool:  # noqa: A002
        """Whether a round is the last of a task that another one follows."""
        return round > 0 and self.task(round + 1) != self.task(round)

    def present(self, clients: Mapping[str, np.ndarray], round: int) -> set[str]:  # noqa: A002
        """Those of some clients that have examples of a round's task.

        Args:
            clients: client id → indices of its examples.
            round: 1-based round.
        """
        number = self.task(round)
        return {client for client, held in clients.items() if (self.numbers[held] == number).any()}

    def trained(self, held: np.ndarray, client: str, round: int) -> np.ndarray:  # noqa: A002
        """Indices of what a client trains on in a round: its examples of the task, and those that it replays.

        Args:
            held: indices of all its examples.
            client: client id.
            round: 1-based round.
        """
        of_held, number = self.numbers[held], self.task(round)
        fresh: np.ndarray = held[of_held == number]
        if self.replay is None:
            return fresh
        memory = self.replay.memory(of_held < number, held, client, self.seed)
        return np.concatenate([fresh, self.replay.drawn(memory, len(fresh), client, self.seed, round)])
