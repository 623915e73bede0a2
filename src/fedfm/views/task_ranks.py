"""Ranks of the tasks of a stream: in a round, clients train and return the ranks of LoRA's factors of its task alone.

Factors of rank T·k have the k ranks of each of T tasks one after the other. A client gets them whole, so that it
computes with what earlier tasks have learnt, and does not change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from fedfm.spec import Spec
from fedfm.views.base import Slices, View, whole
from fedfm.views.ranks import rank_dimension


@dataclass(frozen=True)
class TaskRanks(View):
    """Which ranks are trained when.

    Attributes:
        rank: k, ranks of a task.
        tasks: T.
        rounds: of each task; the last goes on until the run ends.
    """

    rank: int
    tasks: int
    rounds: int

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """As the recipe's algorithm divides the factors between the tasks of `federation.stream`."""
        rank = recipe.algorithm.task_rank
        if rank is None:
            return None
        tasks = recipe.tune.r // rank
        return cls(rank, tasks, recipe.federation.stream.length(tasks, recipe.federation.rounds))

    def gets(self, spec: Spec, client: str, number: int) -> Slices:
        """Everything."""
        return whole(spec)

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """The ranks of the round's task; all of tensors that are no factors."""
        task = min(max(number - 1, 0) // self.rounds, self.tasks - 1)
        ranks = slice(task * self.rank, (task + 1) * self.rank)
        found = {name: rank_dimension(name) for name in spec}
        return {name: () if axis is None else (*[slice(None)] * axis, ranks) for name, axis in found.items()}

    @property
    def period(self) -> int:
        """All rounds of all tasks."""
        return self.tasks * self.rounds
