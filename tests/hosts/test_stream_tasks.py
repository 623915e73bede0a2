"""What the data of a stream decides: heads, who is there for which task, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedfm.data.streams import StreamTasks, Timetable
from fedfm.errors import RecipeError
from fedfm.hosts.stream_tasks import check_attendance
from fedfm.recipe import load_recipe
from fedfm.server.experiment.federated_data import FederatedData, prepare_data
from tests.small import small_recipe

CLASSES = {"spring": ["good", "bad"], "summer": ["hot", "cold"]}


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text(
        "".join(
            json.dumps({"text": f"{name} {i}", "label": name, "season": season}) + "\n"
            for i, (season, name) in enumerate(rows)
        )
    )


def prepared(
    folder: Path, heads: str | None, more: list[tuple[str, str]] | None = None, **federation: Any
) -> FederatedData:
    """Two tasks of two classes each; ``more`` test examples."""
    stream = {"kind": "column", "column": "season", "rounds": 1, "heads": heads}
    settings = {"clients": 2, "per_round": 2, "rounds": 2, "stream": stream, **federation}
    recipe = small_recipe(folder, federation=settings)
    rows = [(season, name) for season, names in CLASSES.items() for name in names] * 6
    write(folder / "train.jsonl", rows)
    write(folder / "test.jsonl", rows + (more or []))
    return prepare_data(load_recipe(recipe))


def test_the_run_says_which_head_a_class_is_of(tmp_path: Path) -> None:
    data = prepared(tmp_path, "per-task")
    assert data.labels is not None
    heads = dict(zip(data.labels.names, data.recipe.task.heads, strict=True))
    assert heads == {"good": 0, "bad": 0, "hot": 1, "cold": 1}
    assert data.task is data.recipe.task
    assert prepared(tmp_path, "shared").recipe.task.heads == []


def test_tasks_with_other_classes_need_a_word_on_heads(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="set `heads: per-task` to give each task a head of its own"):
        prepared(tmp_path, None)


def test_a_test_example_that_its_head_cannot_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"an example of task `summer` has the class 'good'(.|\n)*heads: per-task"):
        prepared(tmp_path, "per-task", [("summer", "good")])


def test_clients_are_there_in_their_rounds_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path, "shared", presence={"0": [1, 1], "1": [1, None]})
    assert [sorted(data.present(number)) for number in (1, 2)] == [["0", "1"], ["1"]]


def test_a_task_for_which_nobody_is_there_is_refused(tmp_path: Path) -> None:
    stream = {"kind": "column", "column": "site", "rounds": 2}
    federation = {"clients": 2, "per_round": 2, "rounds": 4, "stream": stream, "presence": {"1": [1, 3]}}
    recipe = load_recipe(small_recipe(tmp_path, federation=federation))
    timetable = Timetable(StreamTasks(("a", "b"), {}), 2, np.array([0, 0, 1]), None, 0)
    check_attendance(recipe, timetable, {"0": np.array([0, 2]), "1": np.array([1])})
    with pytest.raises(RecipeError, match="no client that is there in round 4 has an example of its task `b`"):
        check_attendance(recipe, timetable, {"0": np.array([0]), "1": np.array([1, 2])})
