"""The tasks of a recipe's stream: which example belongs to which, and when clients train on it."""

from __future__ import annotations

import numpy as np

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.data.streams import Timetable
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe


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
    length = stream.length(len(tasks.names), recipe.federation.rounds)
    return Timetable(tasks, length, numbers, recipe.local.replay, recipe.seed)


def tested_tasks(
    recipe: Recipe, timetable: Timetable, source: Source, examples: Examples, labels: LabelMap | None
) -> np.ndarray:
    """The task of each test example, int64 [N]; −1 for one that no task has.

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
    return numbers
