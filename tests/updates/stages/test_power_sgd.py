"""PowerSGD against numpy's decompositions, its bytes, and what it is refused with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.recipe import load_recipe
from fedfm.spec import TensorSpec, count, spec_of
from fedfm.updates.stages import PowerSgd
from tests.small import small_recipe


def draw(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def through(stage: PowerSgd, params: Params, own: Params) -> tuple[Params, Params]:
    sent, kept = stage.encode(params, own, numpy_generator(0, "test"))
    return stage.decode(sent, spec_of(params)), kept


def test_a_matrix_of_that_rank_arrives_and_leaves_nothing() -> None:
    params = {"w": torch.from_numpy(draw(12, 2) @ draw(2, 9, seed=1)), "bias": torch.ones(3)}
    stage = PowerSgd(rank=2)
    found, kept = through(stage, params, stage.start(spec_of(params)))
    torch.testing.assert_close(found, params)
    torch.testing.assert_close(kept["w"], torch.zeros(12, 9, dtype=torch.float64))


def test_what_arrives_is_the_projection_on_the_span_of_mq() -> None:
    matrix, q = draw(10, 8), draw(8, 2, seed=1)
    stage, params = PowerSgd(rank=2), {"w": torch.from_numpy(matrix)}
    residual = draw(10, 8, seed=2)
    q_name = next(name for name in stage.start(spec_of(params)) if name != "w")
    own = {"w": torch.from_numpy(residual), q_name: torch.from_numpy(q)}
    found, kept = through(stage, params, own)
    whole = matrix + residual
    basis, _ = np.linalg.qr(whole @ q)
    np.testing.assert_allclose(found["w"], basis @ basis.T @ whole, atol=1e-12)
    np.testing.assert_allclose(kept["w"], whole - basis @ basis.T @ whole, atol=1e-12)
    signs = np.sign((kept[q_name].numpy() * (whole.T @ basis)).sum(0))
    np.testing.assert_allclose(kept[q_name].numpy() * signs, whole.T @ basis, atol=1e-12)


def test_rounds_approach_the_best_matrix_of_that_rank() -> None:
    matrix = draw(20, 15)
    left, values, right = np.linalg.svd(matrix)
    values[3:] *= 0.5
    matrix = left[:, :15] * values @ right
    best = np.sqrt((values[3:] ** 2).sum())
    stage, params = PowerSgd(rank=3), {"w": torch.from_numpy(matrix)}
    own, errors = stage.start(spec_of(params)), []
    for _ in range(30):
        found, kept = through(stage, params, own)
        errors.append(float(np.linalg.norm(found["w"].numpy() - matrix)))
        own = {**kept, "w": torch.zeros_like(params["w"])}  # Q goes on, the residual does not
    assert errors[0] > 1.1 * best
    assert errors[-1] == pytest.approx(best, rel=1e-3)


def test_only_matrices_that_factors_make_smaller_are_factored() -> None:
    spec = {
        "wide": TensorSpec((8, 384)),
        "small": TensorSpec((8, 8)),  # 4·(8 + 8) is no less than 64
        "bias": TensorSpec((384,)),
        "cube": TensorSpec((2, 300, 2)),
    }
    sizes = {name.rpartition(".")[2]: tensor.numel for name, tensor in PowerSgd(rank=4).spec(spec).items()}
    assert sizes == {"factors": 4 * (8 + 384), "dense": 64 + 384 + 1200}
    assert sum(sizes.values()) < count(spec)


def test_after_a_round_of_zeros_the_next_one_is_not_lost() -> None:
    stage, params = PowerSgd(rank=2), {"w": torch.from_numpy(draw(9, 7))}
    zeros = {"w": torch.zeros(9, 7, dtype=torch.float64)}
    _, kept = through(stage, zeros, stage.start(spec_of(zeros)))
    found, _ = through(stage, params, kept)
    assert found["w"].norm() > 0.3 * params["w"].norm()


@pytest.mark.parametrize("extra", [{"federation": {"ranks": [2, 4]}}, {"tune": {"kind": "lora", "share": "not head"}}])
def test_parts_of_a_tunable_are_refused_where_q_is_kept(extra: dict[str, Any], tmp_path: Path) -> None:
    def recipe(**stage: Any) -> dict[str, Any]:
        values = small_recipe(tmp_path)
        return {**values, **{key: {**values.get(key, {}), **more} for key, more in extra.items()}, "updates": [stage]}

    with pytest.raises(RecipeError, match="whole views: a client's Q is that of whole matrices"):
        load_recipe(recipe(kind="power-sgd"))
    load_recipe(recipe(kind="power-sgd", error_feedback=False))
