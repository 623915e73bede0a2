"""The interface of a stream, which decides the task that each example belongs to, and when a task is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedfm import capabilities
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import Source
from fedfm.errors import RecipeError
from fedfm.settings import Capabilities, Settings

WHERE = "federation.stream"


@dataclass(frozen=True)
class StreamTasks:
    """The tasks of a stream, in the order in which they come.

    Attributes:
        names: of the tasks.
        of: an example's value, such as its class or its time slice → number of its task.
    """

    names: tuple[str, ...]
    of: Mapping[str, int]

    def numbers(self, values: Sequence[str]) -> np.ndarray:
        """The task of each example from its value, int64 [N]; −1 for a value that no task has."""
        return np.array([self.of.get(value, -1) for value in values], dtype=np.int64)


class Stream(Settings):
    """Base class of streams: clients train on one task after the other, each for some rounds.

    A kind defines `values`, what of each example decides its task, and `plan`, which values make a task.
    """

    kind: str
    """How training examples are divided into tasks that come one after the other."""
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Rounds of each task; the last goes on until the run ends. null: `federation.rounds` over the number of tasks."""

    heads: Literal["shared", "per-task"] | None = None
    """`per-task`: each task has a head of its own, with its classes alone, which trains on it and is measured on it;
    `shared`: one head tells the classes of all tasks apart; null: `shared`, but a column's tasks must all have the
    classes of the first."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.SIMULATED_CLIENTS: "the server says which examples come when; at a site, data come by themselves",
        capabilities.BARRIER: "all clients go from one task to the next after the same round",
        capabilities.ONE_MODEL: "all tasks are measured on the one model of the server",
        capabilities.SERVER_STEP: "all tasks are measured on the one model of the server",
    }
    gives: ClassVar[frozenset[str]] = frozenset({capabilities.TASKS})
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.STEADY_EXAMPLES: "a client trains on other examples in later rounds",
    }

    def capabilities(self) -> Capabilities:
        """A head for each task needs classes."""
        said = super().capabilities()
        if not self.has_heads:
            return said
        needs = {capabilities.LABELS: "each task has a head with its classes; leave out federation.stream.heads"}
        return Capabilities({**needs, **said.needs}, said.gives, said.takes)

    @property
    def has_heads(self) -> bool:
        """Whether each task has a head of its own."""
        return self.heads == "per-task"

    def heads_of(self, numbers: np.ndarray, examples: Examples, labels: LabelMap) -> list[int]:
        """The task whose head each class is of, by the training examples; −1 for a class without any.

        Args:
            numbers: the task of each training example.
            examples: as encoded.
            labels: the classes.
        """
        heads = np.full(len(labels.names), -1)
        if examples.labels is not None:
            heads[examples.labels] = numbers
        return [int(head) for head in heads]

    def columns(self) -> list[RequestedColumn]:
        """Columns of the data that the stream reads, beside those of the task."""
        return []

    def values(self, source: Source, examples: Examples, labels: LabelMap | None, where: str) -> list[str]:
        """What of each example decides its task, N texts.

        Args:
            source: of the examples.
            examples: as encoded.
            labels: the classes.
            where: recipe key of the data, for messages.

        Raises:
            RecipeError, DataError: the examples lack what the kind reads.
        """
        raise NotImplementedError

    def plan(self, values: Sequence[str], labels: LabelMap | None) -> StreamTasks:
        """The tasks, from the values of the training examples.

        Args:
            values: of the training examples.
            labels: the classes.

        Raises:
            RecipeError: they do not fit the settings.
        """
        raise NotImplementedError

    def check(self, tasks: StreamTasks, numbers: np.ndarray, examples: Examples, labels: LabelMap | None) -> None:
        """Accepts the tasks of the training examples, or refuses them with the reason.

        Args:
            tasks: as `plan`.
            numbers: the task of each training example.
            examples: as encoded.
            labels: the classes.

        Raises:
            RecipeError: they cannot be learned one after the other by one model.
        """
        if len(tasks.names) < 2:
            raise RecipeError(f"a stream needs two tasks, but there is only `{tasks.names[0]}`", where=WHERE)
        for number, name in enumerate(tasks.names):
            if not (numbers == number).any():
                raise RecipeError(f"no training example belongs to task `{name}`", where=WHERE)
        if self.has_heads and labels is not None and examples.labels is not None:
            for label, name in enumerate(labels.names):
                if len(found := np.unique(numbers[examples.labels == label])) > 1:
                    first, second = (tasks.names[number] for number in found[:2])
                    raise RecipeError(
                        f"`per-task` gives each task a head with classes of its own, but tasks `{first}` and "
                        f"`{second}` both have the class {name!r}; use shared, or name the classes differently",
                        where=f"{WHERE}.heads",
                    )

    def length(self, tasks: int, rounds: int) -> int:
        """Rounds of each of some tasks, in a run of so many rounds."""
        return self.rounds or max(1, rounds // tasks)
