"""The tasks of a recipe's stream: which example belongs to which, and when clients train on it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.data.streams import Timetable
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe
from fedfm.tasks import Task


def timetable_of(recipe: Recipe, source: Source, examples: Examples, labels: LabelMap | None) -> Timetable | None:
    """When clients train on which of the training examples; None for a recipe without a stream.

    Args:
        recipe: of the run.
        source: of the training examples.
        examples: as encoded.
        labels: the classes.

    Raises:
        RecipeError, DataError: the stream does not fit the examples.
    """
    stream = recipe.federation.stream
    if stream is None:
        return None
    values = stream.values(source, examples, labels, "data.train")
    tasks = stream.plan(values, labels)
    numbers = tasks.numbers(values)
    stream.check(tasks, numbers, examples, labels)
    _check_ranks(recipe, len(tasks.names))
    length = stream.length(len(tasks.names), recipe.federation.rounds)
    return Timetable(tasks, length, numbers, recipe.local.replay, recipe.seed)


def check_attendance(recipe: Recipe, timetable: Timetable, clients: Mapping[str, np.ndarray]) -> None:
    """Refuses a round in which no client that is there has an example of the round's task.

    Args:
        recipe: of the run.
        timetable: of its stream.
        clients: client id → indices of the examples that it trains on.

    Raises:
        RecipeError: at ``federation.presence``.
    """
    federation, tasks = recipe.federation, len(timetable.names)
    begins = [number * timetable.rounds + 1 for number in range(tasks)]
    for number in sorted({*begins, *federation.turning_points()}) if federation.presence else ():
        there = {client: held for client, held in clients.items() if federation.is_there(client, number)}
        if number <= federation.rounds and not timetable.present(there, number):
            raise RecipeError(
                f"no client that is there in round {number} has an example of its task "
                f"`{timetable.names[timetable.task(number)]}`: let others be there",
                where="federation.presence",
            )


def headed(
    recipe: Recipe, task: Task, timetable: Timetable | None, examples: Examples, labels: LabelMap | None
) -> Task:
    """The task with a head for each task of the stream, where the recipe asks for that.

    Args:
        recipe: of the run.
        task: with all else that the data decides.
        timetable: of the stream.
        examples: the training examples.
        labels: the classes.
    """
    stream = recipe.federation.stream
    if stream is None or timetable is None or labels is None or not stream.has_heads:
        return task
    return task.with_heads(stream.heads_of(timetable.numbers, examples, labels))


def _check_ranks(recipe: Recipe, tasks: int) -> None:
    """Refuses factors that are not as large as the ranks of all tasks together."""
    rank, whole = recipe.algorithm.task_rank, getattr(recipe.tune, "r", 0)
    if rank is not None and whole != tasks * rank:
        raise RecipeError(
            f"`{recipe.algorithm.name}` gives each task {rank} ranks (algorithm.rank), so that {tasks} tasks need "
            f"tune.r={tasks * rank}, not {whole}",
            where="tune.r",
        )


def tested_tasks(
    recipe: Recipe,
    timetable: Timetable,
    source: Source,
    examples: Examples,
    labels: LabelMap | None,
    trained: Examples,
) -> np.ndarray:
    """The task of each test example, int64 [N]; −1 for one that no task has.

    Args:
        recipe: of the run.
        timetable: of its stream.
        source: of the test examples.
        examples: as encoded.
        labels: the classes.
        trained: the training examples.

    Raises:
        RecipeError, DataError: a task has no test example, or the stream does not fit them.
    """
    stream = recipe.federation.stream
    if stream is None:
        raise ValueError("the recipe has no stream")
    numbers = timetable.tasks.numbers(stream.values(source, examples, labels, "data.test"))
    for number, name in enumerate(timetable.names):
        if not (numbers == number).any():
            reason = f"no test example belongs to task `{name}` of the stream, which could not be measured"
            raise RecipeError(reason, where="data.test")
    if stream.has_heads and labels is not None and examples.labels is not None:
        heads = np.array(stream.heads_of(timetable.numbers, trained, labels))
        if len(wrong := np.flatnonzero((numbers >= 0) & (heads[examples.labels] != numbers))):
            name, task = labels.names[examples.labels[wrong[0]]], timetable.names[numbers[wrong[0]]]
            raise RecipeError(
                f"an example of task `{task}` has the class {name!r}, of which that task has no training example, so "
                "that its head cannot know it (federation.stream.heads: per-task)",
                where="data.test",
            )
    return numbers
