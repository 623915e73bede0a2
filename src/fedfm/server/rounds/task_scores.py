"""The model on each task of a stream, after each evaluated round: of the test set, and of what clients hold out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.data.examples import Examples
from fedfm.records.forgetting import SPLIT, continual_figures
from fedfm.server.experiment.build import Experiment

TASKS = "tasks"
"""Split of the values on each task of the test set, among the scores of a round."""

TaskRows = Mapping[str, list[dict[str, float]]]
"""Client, empty for the test set → task → value: before round 1, and after each task that another one follows."""


@dataclass(frozen=True)
class TaskScores:
    """The model on the tasks of one client, or of the test set.

    Attributes:
        client: client id; empty for the test set.
        task: name of the present task.
        now: task → value of the headline metric.
        figures: average, forgetting and transfer; nothing before round 1.
        examples: measured.
    """

    client: str
    task: str
    now: dict[str, float]
    figures: dict[str, float]
    examples: int


@dataclass(frozen=True)
class MeasuredTasks:
    """What was measured after a round.

    Attributes:
        subjects: the test set and clients; nothing without a stream.
        rows: values after each task so far.
    """

    subjects: list[TaskScores]
    rows: TaskRows

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of the test set, by split."""
        whole = [found for found in self.subjects if not found.client]
        return {SPLIT: whole[0].figures, TASKS: whole[0].now} if whole else {}


def measure_tasks(experiment: Experiment, number: int, rows: TaskRows) -> MeasuredTasks:
    """The model on the tasks after a round, with the values that the backbone's tunable has now.

    Args:
        experiment: of the run.
        number: rounds done.
        rows: before this round.
    """
    timetable, after = experiment.data.timetable, dict(rows)
    if timetable is None:
        return MeasuredTasks([], rows)
    metric, names = experiment.evaluator.metrics[0], timetable.names
    higher = experiment.data.task.metrics[metric]
    found: list[TaskScores] = []
    for client, examples, sets in _subjects(experiment):
        now = {names[task]: experiment.evaluator(examples, indices)[metric] for task, indices in sets.items()}
        before = rows.get(client, [])
        figures = continual_figures(before, now, names, metric=metric, higher=higher) if number else {}
        count = sum(map(len, sets.values()))
        found.append(TaskScores(client, names[timetable.task(number)], now, figures, count))
        if number == 0 or timetable.ends(number):
            after[client] = [*before, now]
    return MeasuredTasks(found, after)


def stream_summary(experiment: Experiment, state_rows: TaskRows, latest: Mapping[str, Mapping[str, float]]) -> Any:
    """The stream in summary.json: its tasks, the values on each after each, and what they come to; None without one.

    Args:
        experiment: of the run.
        state_rows: as `MeasuredTasks.rows`.
        latest: scores of the last evaluated round, by split.
    """
    timetable = experiment.data.timetable
    if timetable is None or TASKS not in latest:
        return None
    rows = state_rows.get("", [])
    return {
        "metric": experiment.evaluator.metrics[0],
        "tasks": list(timetable.names),
        "rounds": timetable.rounds,
        "seen": len(rows),
        "matrix": [[row.get(name) for name in timetable.names] for row in [*rows, latest[TASKS]]],
        **latest[SPLIT],
    }


def _subjects(experiment: Experiment) -> Iterator[tuple[str, Examples, dict[int, np.ndarray]]]:
    """Client, or nothing for the test set, with examples and their indices by task."""
    data, timetable = experiment.data, experiment.data.timetable
    if timetable is None or data.test_tasks is None:
        return
    tasks = range(len(timetable.names))
    yield "", data.test, {task: np.flatnonzero(data.test_tasks == task) for task in tasks}
    examples, sets = data.client_test_sets()
    numbers = data.test_tasks if examples is data.test else timetable.numbers
    for client, held in sets.items():
        by_task = {task: held[numbers[held] == task] for task in tasks}
        yield client, examples, {task: indices for task, indices in by_task.items() if len(indices)}
