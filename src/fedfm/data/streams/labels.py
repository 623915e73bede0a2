"""Tasks by class: each brings new classes, which one head must tell apart from the old (class-incremental learning).

Of the three scenarios of van de Ven and Tolias, arXiv:1904.07734, this is the hardest: nothing says at test time which
task an example belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.capabilities import LABELS
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.data.streams.base import WHERE, Stream, StreamTasks
from fedfm.errors import RecipeError


class LabelStream(Stream):
    """Each task brings new classes; one head has all of them from the start."""

    needs = {**Stream.needs, LABELS: "a task is a group of classes; use federation.stream.kind=column"}

    kind: Literal["labels"] = "labels"
    """Each task brings new classes; one head has all of them from the start."""
    tasks: Annotated[int, Field(ge=2, le=10_000)] = 5
    """Number of tasks, of equally many classes in the order of the classes; `groups` takes its place."""
    groups: list[Annotated[list[str], Field(min_length=1)]] | None = None
    """The classes of each task, such as `[[cat, dog], [ship, plane]]`; null: as `tasks` says."""

    def values(self, source: Source, examples: Examples, labels: LabelMap | None, where: str) -> list[str]:
        """The class of each example."""
        if labels is None or examples.labels is None:
            raise RecipeError(f"`{self.kind}` needs a class for each example", where=f"{WHERE}.kind")
        return [labels.names[label] for label in examples.labels.tolist()]

    def plan(self, values: Sequence[str], labels: LabelMap | None) -> StreamTasks:
        """The classes, in groups; each task is named after its classes."""
        classes = () if labels is None else labels.names
        groups = self.groups or [list(part) for part in np.array_split(np.array(classes, dtype=object), self.tasks)]
        if self.groups is None and len(classes) < self.tasks:
            raise RecipeError(f"{len(classes)} classes cannot make {self.tasks} tasks", where=f"{WHERE}.tasks")
        named = [name for group in groups for name in group]
        if unknown := [name for name in named if name not in classes]:
            raise RecipeError(f"no class is called {unknown[0]!r}; there are {', '.join(classes)}", where=_GROUPS)
        if twice := [name for name in named if named.count(name) > 1]:
            raise RecipeError(f"class {twice[0]!r} is in two tasks", where=_GROUPS)
        if missing := [name for name in classes if name not in named]:
            raise RecipeError(f"no task has the class {missing[0]!r}", where=_GROUPS)
        return StreamTasks(
            tuple("+".join(group) for group in groups),
            {name: number for number, group in enumerate(groups) for name in group},
        )


_GROUPS = f"{WHERE}.groups"
