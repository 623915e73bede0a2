"""Error feedback of every stage that has it: nothing is lost, and the optimum is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fedfm.errors import RecipeError
from fedfm.params import Params, add, zeros_like
from fedfm.randomness import numpy_generator
from fedfm.recipe import load_recipe
from fedfm.spec import spec_of
from fedfm.updates import MessageKey, UpdatePath
from fedfm.updates.stages import STAGES
from fedfm.updates.stages.feedback import ErrorFeedback
from tests.small import small_recipe

WITH_FEEDBACK = [kind for kind, stage in STAGES.items() if issubclass(stage, ErrorFeedback)]
every_stage = pytest.mark.parametrize("kind", WITH_FEEDBACK)
TWO_WAYS = [kind for kind in WITH_FEEDBACK if "down" in str(STAGES[kind].model_fields["direction"].annotation)]


def draw(number: int) -> Params:
    rng = torch.Generator().manual_seed(number)
    return {
        "a": torch.randn(12, 20, generator=rng, dtype=torch.float64),
        "b": torch.randn(7, generator=rng, dtype=torch.float64),
    }


def test_stages_have_it() -> None:
    assert len(WITH_FEEDBACK) >= 5
    assert TWO_WAYS


@every_stage
def test_what_arrives_and_what_is_kept_add_up_to_the_updates(kind: str) -> None:
    path, specs = UpdatePath((STAGES[kind](kind=kind, decay=1.0),)), {"tunable": spec_of(draw(0))}
    own, arrived, total = path.start(specs), zeros_like(draw(0)), zeros_like(draw(0))
    for number in range(6):
        key, update = MessageKey(0, number, "a"), draw(number)
        sent, own = path.encode({"tunable": update}, own, key)
        arrived = add(arrived, path.decode(sent, specs, key)["tunable"])  # type: ignore[arg-type]
        total = add(total, update)
    for name, tensor in total.items():
        torch.testing.assert_close(arrived[name] + own["stage-0/tunable"][name], tensor)
    assert not torch.allclose(arrived["a"], total["a"])


def distance(stage: ErrorFeedback, rounds: int) -> float:
    """Relative distance from the optimum of two clients whose gradients agree in part and cancel in part."""
    common, conflict = draw(1), draw(2)
    conflict["a"][:, :2] *= 20
    path, specs, w = UpdatePath((stage,)), {"tunable": spec_of(common)}, zeros_like(common)
    own = {sign: path.start(specs) for sign in (1, -1)}
    for number in range(rounds):
        mean = zeros_like(w)
        for sign in own:
            update = {name: 0.04 * (common[name] + sign * conflict[name] - w[name]) for name in w}
            key = MessageKey(0, number, str(sign))
            sent, own[sign] = path.encode({"tunable": update}, own[sign], key)
            arrived = path.decode(sent, specs, key)["tunable"]
            mean = {name: mean[name] + arrived[name] / 2 for name in w}
        w = add(w, mean)
    error = sum(float((w[name] - common[name]).square().sum()) for name in w)
    return (error / sum(float(common[name].square().sum()) for name in w)) ** 0.5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("top-k", {"share": 0.05}),
        ("chunk-top-k", {"share": 0.05, "decay": 1.0}),
        ("random-k", {}),
        ("sign", {}),
        ("nf4", {}),
        ("power-sgd", {"rank": 1}),
    ],
)
def test_the_optimum_is_approached_with_error_feedback_only(kind: str, settings: dict[str, Any]) -> None:
    stage = STAGES[kind](kind=kind, **settings)
    assert isinstance(stage, ErrorFeedback)
    found, without = (distance(stage.model_copy(update={"error_feedback": on}), 100) for on in (True, False))
    assert found < 0.8 * without
    assert found < 0.6


@pytest.mark.parametrize("kind", TWO_WAYS)
def test_what_the_server_sends_has_no_residual(kind: str) -> None:
    with pytest.raises(ValidationError, match="error_feedback is for what clients send"):
        STAGES[kind](kind=kind, direction="down")
    stage = STAGES[kind](kind=kind, direction="down", error_feedback=False)
    assert not UpdatePath.of([stage], "up").stages
    assert not stage.stateful


@every_stage
def test_a_residual_needs_the_tensors_under_their_names(kind: str, tmp_path: Path) -> None:
    values = {**small_recipe(tmp_path), "updates": [{"kind": "top-k"}, {"kind": kind}]}
    with pytest.raises(RecipeError, match=f"put {kind} before top-k"):
        load_recipe(values)
    load_recipe({**values, "updates": [{"kind": "quantize", "direction": "down"}, {"kind": kind}]})


@every_stage
def test_an_update_that_is_not_finite_leaves_no_residual(kind: str) -> None:
    stage = STAGES[kind](kind=kind).in_round(3)
    params = draw(0)
    params["a"][0, 0] = torch.inf
    _, kept = stage.encode(params, stage.start(spec_of(params)), numpy_generator(0, "test"))
    assert all(not kept[name].any() for name in params)
