"""LwF against torch's divergence on logits, and when there is a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from fedfm import run
from fedfm.algorithms import Lwf
from fedfm.clients.objective import Objective
from fedfm.clients.rules import TEACHER
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from tests.small import small_recipe


def test_the_term_is_the_divergence_from_the_teacher() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    expected = kl_div(log_softmax(student / 2, -1), softmax(teacher / 2, -1), reduction="none").sum(-1)
    found = Lwf(weight=0.5, temperature=2.0).loss(student, {}, teacher)
    torch.testing.assert_close(found, 0.5 * 2**2 * expected)
    assert found.shape == (5,)


def test_before_a_task_is_over_nothing_is_added() -> None:
    assert Lwf().loss(torch.randn(5, 3), {}, None).tolist() == [0.0] * 5


def recipe(folder: Path, algorithm: dict[str, Any], rounds: int) -> dict[str, Any]:
    stream = {"kind": "column", "column": "site", "rounds": 1}
    federation = {"clients": 2, "per_round": 2, "rounds": rounds, "stream": stream}
    return small_recipe(
        folder, name=f"{algorithm['name']}-{rounds}", federation=federation, algorithm=algorithm, tune={"kind": "head"}
    )


def test_the_model_after_a_task_teaches_in_the_next(tmp_path: Path) -> None:
    found = run(load_recipe(recipe(tmp_path, {"name": "lwf", "weight": 100.0}, 2))).state
    plain = run(load_recipe(recipe(tmp_path, {"name": "fedavg"}, 2))).state.params
    teacher = found.protocol.server[TEACHER]
    assert all(torch.equal(teacher[name], found.params[name]) for name in plain), "the second task is over as well"
    assert any(not torch.equal(found.params[name], plain[name]) for name in plain)


def test_a_group_of_zeros_is_no_teacher(tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(recipe(tmp_path, {"name": "lwf"}, 2)))
    tunable, task, rule = experiment.tunable, experiment.data.task, Lwf()
    groups = rule.sends(rule.start(experiment.start))
    assert Objective.of(tunable, task, rule, {}, {}, sent=groups, dropout=False).teacher is None
    groups = rule.sends(rule.end_task(experiment.start, {}, {}))
    assert Objective.of(tunable, task, rule, {}, {}, sent=groups, dropout=False).teacher is groups[TEACHER]


def test_without_a_stream_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tasks that come one after the other(.|\n)*federation.stream.kind"):
        load_recipe(small_recipe(tmp_path, algorithm={"name": "lwf"}))
