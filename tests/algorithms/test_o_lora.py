"""O-LoRA: the penalty by hand, what of the factors moves in which task, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm import resume, run
from fedfm.algorithms import OLora
from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from fedfm.views.ranks import rank_dimension
from tests.small import small_recipe

A, B = "q.lora_A.weight", "q.lora_B.weight"
ROWS = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 1.0], [9.0, 9.0]])


def trains(first: int, last: int) -> dict[str, torch.Tensor]:
    mask = torch.zeros(4, 2, dtype=torch.bool)
    mask[first:last] = True
    return {A: mask}


def test_the_penalty_and_its_gradient_by_hand() -> None:
    factor = ROWS.clone().requires_grad_()
    penalty = OLora(rank=1, strength=0.5).penalty({A: factor, B: torch.ones(2, 4)}, trains(2, 3))
    # A_1·A_3ᵀ = 1·3 + 2·1 = 5, A_2·A_3ᵀ = 0.5·3 − 1·1 = 0.5
    assert penalty.item() == pytest.approx(0.5 * (25 + 0.25))
    penalty.backward()
    assert factor.grad is not None
    assert factor.grad[2].tolist() == pytest.approx([5 * 1.0 + 0.5 * 0.5, 5 * 2.0 - 0.5 * 1.0])  # λ·2·Σ (A_i·A_tᵀ)·A_i
    assert not factor.grad[[0, 1, 3]].any(), "earlier and later ranks are not moved by it"


def test_the_first_task_and_factors_that_are_not_trained_have_none() -> None:
    parameters = {A: ROWS.clone().requires_grad_(), B: torch.ones(2, 4)}
    assert OLora().penalty(parameters, trains(0, 2)).item() == 0
    assert OLora().penalty(parameters, {}).item() == 0
    assert not OLora().penalty(parameters, trains(0, 0)).requires_grad


def recipe(folder: Path, rounds: int, **tune: Any) -> dict[str, Any]:
    stream = {"kind": "column", "column": "site", "rounds": 1}
    return small_recipe(
        folder,
        federation={"clients": 2, "per_round": 2, "rounds": rounds, "stream": stream},
        algorithm={"name": "o-lora", "rank": 1},
        tune={"kind": "lora", "r": 5, **tune},
    )


def test_a_task_moves_its_own_ranks_and_the_head_alone(tmp_path: Path) -> None:
    start = build_experiment(load_recipe(recipe(tmp_path, 1))).start
    first = run(load_recipe(recipe(tmp_path, 1)))
    one = dict(first.state.params)
    two = resume(first.path, ["federation.rounds=2"]).state.params
    for name, before in start.items():
        axis = rank_dimension(name)
        if axis is None:  # the head
            assert not torch.equal(one[name], before)
            assert not torch.equal(two[name], one[name])
            continue
        for rank in range(5):
            at_start, after_one, after_two = (values[name].select(axis, rank) for values in (start, one, two))
            assert torch.equal(at_start, after_one) == (rank != 0)
            assert torch.equal(after_one, after_two) == (rank != 1)
        if axis == 1:
            assert not two[name][:, 2:].any(), "tasks to come add nothing"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tune": {"kind": "dora", "r": 8}}, "needs a low-rank product: the factors of LoRA are divided between tasks"),
        ({"tune": {"kind": "full"}}, "needs a low-rank product"),
    ],
)
def test_what_is_not_lora_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(recipe(tmp_path, 1) | changes)


def test_without_a_stream_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tasks that come one after the other(.|\n)*federation.stream.kind"):
        load_recipe(small_recipe(tmp_path, algorithm={"name": "o-lora"}))


def test_ranks_that_are_not_those_of_all_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"each task 1 ranks \(algorithm.rank\), so that 5 tasks need tune.r=5, not 6"
    ):
        build_experiment(load_recipe(recipe(tmp_path, 1, r=6)))
