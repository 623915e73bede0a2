"""The view of ranks that belong to the tasks of a stream."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fedfm.algorithms import FedAvg, OLora
from fedfm.data.streams import LabelStream
from fedfm.spec import Spec, TensorSpec
from fedfm.views import TaskRanks, is_whole, narrow_spec

SPEC: Spec = {"q.lora_A.weight": TensorSpec((6, 3)), "q.lora_B.weight": TensorSpec((2, 6)), "bias": TensorSpec((2,))}


def recipe(algorithm: Any) -> Any:
    federation = SimpleNamespace(stream=LabelStream(tasks=3), rounds=7)
    return SimpleNamespace(algorithm=algorithm, tune=SimpleNamespace(r=6), federation=federation)


def test_a_round_trains_the_ranks_of_its_task_and_gets_all() -> None:
    view = TaskRanks.of(recipe(OLora(rank=2)))
    assert view == TaskRanks(rank=2, tasks=3, rounds=2)
    for number, first in ((1, 0), (2, 0), (3, 2), (5, 4), (7, 4)):
        held = view.held(SPEC, "a", number)
        assert held["q.lora_A.weight"] == (slice(first, first + 2),)
        assert held["q.lora_B.weight"] == (slice(None), slice(first, first + 2))
        assert held["bias"] == ()
        assert [part.shape for part in narrow_spec(SPEC, held).values()] == [(2, 3), (2, 2), (2,)]
        assert is_whole(view.gets(SPEC, "a", number), SPEC)
    assert view.period == 6


def test_other_algorithms_divide_nothing() -> None:
    assert TaskRanks.of(recipe(FedAvg())) is None
