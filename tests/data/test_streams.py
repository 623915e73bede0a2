"""Streams of tasks: which example belongs to which task, when it is trained on, and what clients keep of it."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import chisquare

from fedfm.capabilities import LABELS
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.data.streams import ColumnStream, LabelStream, Replay, StreamTasks, Timetable
from fedfm.errors import RecipeError

CLASSES = LabelMap(("a", "b", "c", "d", "e"))


def examples(labels: list[int]) -> Examples:
    count = len(labels)
    return Examples(Dataset.from_dict({"x": [0] * count}), np.ones(count, np.int32), np.array(labels))


def timetable(numbers: list[int], *, replay: Replay | None = None, rounds: int = 2) -> Timetable:
    names = tuple("uvwxyz"[: max(numbers) + 1])
    return Timetable(StreamTasks(names, {}), rounds, np.array(numbers), replay, 0)


def test_classes_are_divided_in_their_order() -> None:
    tasks = LabelStream(tasks=2).plan([], CLASSES)
    assert tasks.names == ("a+b+c", "d+e")
    assert tasks.numbers(["e", "a", "c"]).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([["a", "b"], ["c", "d"]], "no task has the class 'e'"),
        ([["a", "b"], ["c", "d", "e", "a"]], "class 'a' is in two tasks"),
        ([["a", "b", "f"], ["c", "d", "e"]], "no class is called 'f'"),
    ],
)
def test_groups_must_name_each_class_once(groups: list[list[str]], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        LabelStream(groups=groups).plan([], CLASSES)


def test_numbers_are_ordered_by_size_and_text_as_text() -> None:
    assert ColumnStream(column="year").plan(["10", "9", "10"], None).names == ("9", "10")
    assert ColumnStream(column="month").plan(["may", "june"], None).names == ("june", "may")
    assert ColumnStream(column="month", order=["may", "june"]).plan(["june", "may"], None).names == ("may", "june")
    with pytest.raises(RecipeError, match="also has the value 'june'"):
        ColumnStream(column="month", order=["may"]).plan(["june", "may"], None)


def test_tasks_with_other_classes_are_refused_with_the_reason() -> None:
    numbers, tasks = np.array([0, 0, 1, 1]), StreamTasks(("2023", "2024"), {"2023": 0, "2024": 1})
    same, other = examples([0, 1, 1, 0]), examples([0, 1, 1, 2])
    stream = ColumnStream(column="year")
    stream.check(tasks, numbers, same, CLASSES)
    with pytest.raises(RecipeError, match=r"task `2024` has the class 'c', which task `2023` does not(.|\n)*per-task"):
        stream.check(tasks, numbers, other, CLASSES)
    ColumnStream(column="year", heads="shared").check(tasks, numbers, other, CLASSES)


def test_a_head_for_each_task_needs_classes_of_its_own() -> None:
    numbers, tasks = np.array([0, 0, 1, 1]), StreamTasks(("2023", "2024"), {"2023": 0, "2024": 1})
    stream, apart = ColumnStream(column="year", heads="per-task"), examples([3, 1, 0, 2])
    stream.check(tasks, numbers, apart, CLASSES)
    assert stream.heads_of(numbers, apart, CLASSES) == [1, 0, 1, 0, -1]
    with pytest.raises(RecipeError, match=r"tasks `2023` and `2024` both have the class 'b'; use shared"):
        stream.check(tasks, numbers, examples([3, 1, 1, 2]), CLASSES)
    assert LABELS in stream.capabilities().needs
    assert LABELS not in ColumnStream(column="year").capabilities().needs


def test_rows_that_make_several_examples_are_refused() -> None:
    source = Source(Dataset.from_dict({"year": ["1", "2"]}), "0", "file.csv")
    assert ColumnStream(column="year").values(source, examples([0, 1]), CLASSES, "data.train") == ["1", "2"]
    with pytest.raises(RecipeError, match="2 rows that make 3 examples"):
        ColumnStream(column="year").values(source, examples([0, 1, 1]), CLASSES, "data.train")


def test_tasks_come_one_after_the_other_and_the_last_goes_on() -> None:
    found = timetable([0, 1, 2])
    assert [found.task(number) for number in range(9)] == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert [number for number in range(9) if found.ends(number)] == [2, 4]


def test_a_client_trains_on_the_present_task_alone() -> None:
    found, held = timetable([0, 1, 1, 0, 1]), {"a": np.array([0, 1, 4]), "b": np.array([3])}
    assert found.trained(held["a"], "a", 1).tolist() == [0]
    assert found.trained(held["a"], "a", 3).tolist() == [1, 4]
    assert found.present(held, 1) == {"a", "b"}
    assert found.present(held, 3) == {"a"}


def test_replay_adds_the_share_and_repeats_none_before_all() -> None:
    found, held = timetable([0] * 5 + [1] * 12, replay=Replay(examples=3, share=0.25)), np.arange(17)
    assert found.trained(held, "a", 1).tolist() == [0, 1, 2, 3, 4]  # nothing is over yet
    trained = found.trained(held, "a", 3)
    old = trained[trained < 5]
    assert len(trained) == 12 + 4  # 4 of 16 are a quarter
    assert sorted(np.unique(old, return_counts=True)[1].tolist()) == [1, 1, 2]
    assert found.trained(held, "a", 3).tolist() == trained.tolist()
    assert set(found.trained(held, "a", 4)[12:]) == set(old)  # the memory stays, the order does not


def test_the_memory_is_a_reservoir() -> None:
    replay, held = Replay(examples=4), np.arange(20)
    counts = np.zeros(20)
    for seed in range(1000):
        first = set(replay.memory(held < 10, held, "a", seed).tolist())
        second = replay.memory(held < 20, held, "a", seed)
        assert len(first) == len(second) == 4
        assert {index for index in second.tolist() if index < 10} <= first  # what was thrown away never comes back
        counts[second] += 1
    assert chisquare(counts).pvalue > 0.01  # each example with the same probability, whenever it came
