"""Several tasks at once: each example's loss and score are those of its own task, and clients hold their own heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, r2_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from fedfm.data.labels import LabelMap
from fedfm.data.partitions import ByTask, Pool
from fedfm.data.settings import DataSettings
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.spec import TensorSpec
from fedfm.tasks.multi import MultiTask
from fedfm.views import Heads, narrow_spec
from tests.small import small_recipe

NAMES = ("kind.a", "kind.b", "kind.c", "signs.x", "signs.y", "size.size")
TASKS: list[dict[str, Any]] = [
    {"name": "kind", "kind": "text-classification", "labels": ["a", "b", "c"]},
    {"name": "signs", "kind": "multi-label", "labels": ["x", "y"], "weight": 0.5},
    {"name": "size", "kind": "regression", "labels": ["size"], "center": 1.0, "scale": 2.0},
]
LABELS = torch.tensor([[0, 2, 0], [1, 1, 0], [2, 0.5, 0], [0, 0, 0], [1, 0, 0]])
"""Number of the task, and what is to be predicted."""


def task(**settings: Any) -> MultiTask:
    return MultiTask(tasks=TASKS, **settings)


def outputs() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_loss_of_an_example_is_that_of_its_task() -> None:
    found, counts = task().losses(logits := outputs(), {"labels": LABELS})
    of_signs = binary_cross_entropy_with_logits(logits[:, 3:5], LABELS[:, 1:].double(), reduction="none").mean(1)
    classes = cross_entropy(logits[:, :3], torch.tensor([2, 0, 0, 0, 0]), reduction="none")
    expected = [classes[0], 0.5 * of_signs[1], mse_loss(logits[2, 5], torch.tensor(0.5).double()), classes[3]]
    torch.testing.assert_close(found, torch.stack([*expected, 0.5 * of_signs[4]]))
    assert counts.tolist() == [1] * 5


def test_a_task_changes_no_head_but_its_own() -> None:
    logits = outputs().requires_grad_()
    task().losses(logits, {"labels": LABELS})[0].sum().backward()
    assert logits.grad is not None
    touched = (logits.grad != 0).int().tolist()
    assert touched[0] == touched[3] == [1, 1, 1, 0, 0, 0]
    assert touched[1] == touched[4] == [0, 0, 0, 1, 1, 0]
    assert touched[2] == [0, 0, 0, 0, 0, 1]


def test_metrics_are_those_of_each_task_alone_and_their_mean() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(np.column_stack([np.repeat([0, 1, 2], 20), rng.integers(0, 2, (60, 2))])).float()
    logits = torch.tensor(rng.normal(size=(60, 6)))
    measured = task().measure(logits, {"labels": labels})
    scores, y = task().score(measured, 0.0), labels[:, 1:].numpy()
    predicted = logits.numpy()
    assert scores["accuracy.kind"] == pytest.approx(accuracy_score(y[:20, 0], predicted[:20, :3].argmax(1)))
    assert scores["micro_f1.signs"] == pytest.approx(f1_score(y[20:40], predicted[20:40, 3:5] > 0, average="micro"))
    assert scores["r2.size"] == pytest.approx(r2_score(y[40:, 0], predicted[40:, 5]))
    main = [scores[name] for name in ("accuracy.kind", "micro_f1.signs", "r2.size")]
    assert scores["mean_score"] == pytest.approx(np.mean(main))
    assert list(scores) == list(task().metrics)


def test_a_task_without_examples_does_not_count() -> None:
    measured = task().measure(outputs()[:1], {"labels": LABELS[:1]})
    scores = task().score(measured, 0.0)
    assert np.isnan(scores["r2.size"])
    assert scores["mean_score"] == scores["accuracy.kind"]


def test_clients_hold_the_outputs_of_their_tasks() -> None:
    known = task(held={"a": ["signs"], "b": ["kind", "size"]}).outputs_held
    assert known is not None
    view = Heads(known.total, known.of)
    spec = {"q.lora_A.weight": TensorSpec((6, 4)), "classifier.weight": TensorSpec((6, 4))}
    spec["classifier.bias"] = TensorSpec((6,))
    assert view.held(spec, "a", 1)["classifier.bias"][0].tolist() == [3, 4]  # type: ignore[union-attr]
    assert view.held(spec, "b", 1)["classifier.bias"][0].tolist() == [0, 1, 2, 5]  # type: ignore[union-attr]
    shapes = {name: tensor.shape for name, tensor in narrow_spec(spec, view.held(spec, "a", 1)).items()}
    assert shapes == {"q.lora_A.weight": (6, 4), "classifier.weight": (2, 4), "classifier.bias": (2,)}
    assert not any(view.held(spec, "c", 1).values())
    assert task(heads="all", held={"a": ["signs"]}).outputs_held is None
    with pytest.raises(RecipeError, match="cannot be told apart"):
        view.held({**spec, "classifier.dense.weight": TensorSpec((6, 6))}, "a", 1)


@pytest.mark.parametrize("each", [1, 2, 3])
def test_the_partition_gives_each_client_its_number_of_tasks(each: int) -> None:
    tasks = np.repeat([0, 1, 2], [30, 20, 40])
    hands = ByTask(per_client=each).split(Pool(90, tasks=tasks), 6, np.random.default_rng(0))
    assert sorted(np.concatenate(list(hands.values())).tolist()) == list(range(90))
    assert [len(np.unique(tasks[hand])) for hand in hands.values()] == [each] * 6


@pytest.mark.parametrize(("clients", "each", "said"), [(2, 1, "at least 3 clients"), (6, 4, "more than the 3")])
def test_a_partition_that_does_not_fit_is_refused(clients: int, each: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        ByTask(per_client=each).split(Pool(9, tasks=np.repeat([0, 1, 2], 3)), clients, np.random.default_rng(0))


def test_names_of_outputs_belong_to_their_task() -> None:
    part = task().part("signs", DataSettings(train="tasks", max_length=7))
    assert part.labels == LabelMap(("x", "y"))
    assert part.outputs == slice(3, 5)
    assert part.data.max_length == 7


def test_what_does_not_fit_is_refused_with_the_reason(tmp_path: Path) -> None:
    values = small_recipe(tmp_path, task={"kind": "multi", "tasks": [*TASKS[:1], {**TASKS[1], "train": "x.jsonl"}]})
    values["data"]["label"] = "other"
    values["privacy"] = {"kind": "central", "noise_multiplier": 1.0, "delta": 0.01}
    with pytest.raises(RecipeError) as error:
        load_recipe(values)
    said = str(error.value)
    assert "data.train: the task signs of task.tasks has a source of its own: set it to tasks" in said
    assert "data.label: the tasks of `task.kind: multi` name their own" in said
    assert "set task.heads=all" in said
    with pytest.raises(RecipeError, match="is given twice"):
        load_recipe(small_recipe(tmp_path, task={"kind": "multi", "tasks": [TASKS[0], TASKS[0]]}))
    alone = small_recipe(tmp_path)
    alone["data"]["train"] = "tasks"
    with pytest.raises(RecipeError, match="stands for the sources of several tasks"):
        load_recipe(alone)
