"""Strategies, settings and figures of the choice of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from fedfm.errors import RecipeError
from fedfm.recipe import load_recipe
from fedfm.views.selection import GRADIENT, SNR, LayerSelection, Measured, Selected, Situation, TunableLayers
from fedfm.views.selection.figures import choice_figures
from fedfm.views.selection.strategies import ORDERS, SCORES, Strategy
from tests.small import small_recipe

LAYERS = TunableLayers(
    names=tuple("abcde"),
    tensors=tuple((f"{name}.w",) for name in "abcde"),
    beside=("head",),
    trained=(1,) * 5,
    total=(10,) * 5,
    kept=(1,) * 5,
)
NORMS = {"x": [5.0, 1, 1, 2, 4], "y": [1.0, 9, 1, 8, 1], "z": [1.0, 1, 1, 6, 5]}


def chosen(number: int = 1, **settings: Any) -> tuple[dict[str, str], Selected]:
    """The layers of each client as a word."""
    select = LayerSelection(**{"budget": 2.0, "batches": 2, **settings})
    snr = {client: [1 / value for value in values] for client, values in NORMS.items()}
    known = {client: Measured(1, 10, {GRADIENT: NORMS[client], SNR: snr[client]}) for client in NORMS}
    params = {f"{name}.w": torch.full((1,), float(2**place)) for place, name in enumerate("abcde")}
    selected = select.choose(Situation(LAYERS, known, params, 0, number))
    assert all(names[0] == "head" for names in selected.held.values())
    return {c: "".join(sorted(name[0] for name in names[1:])) for c, names in selected.held.items()}, selected


def test_every_strategy_is_made_by_positions_or_by_scores() -> None:
    assert {*ORDERS, *SCORES} == set(get_args(Strategy))
    assert not ORDERS.keys() & SCORES.keys()


@pytest.mark.parametrize(
    ("strategy", "budget", "expected"),
    [
        ("full", 1.0, "abcde"),
        ("top", 2.0, "de"),
        ("bottom", 2.0, "ab"),
        ("both", 1.0, "a"),
        ("both", 3.0, "abe"),
        ("both", 4.0, "abde"),
    ],
)
def test_positions(strategy: str, budget: float, expected: str) -> None:
    assert set(chosen(strategy=strategy, budget=budget)[0].values()) == {expected}


def test_random_is_another_choice_for_each_client_and_round() -> None:
    draws = [chosen(number, strategy="random")[0] for number in range(1, 30)]
    assert all(len(layers) == 2 for draw in draws for layers in draw.values())
    assert draws[0] == chosen(1, strategy="random")[0]
    assert {draw["x"] for draw in draws} != {draws[0]["x"]}
    assert any(draw["x"] != draw["y"] for draw in draws)
    assert set("".join(draw["x"] for draw in draws)) == set("abcde")


def test_scores_without_agreement_are_each_clients_own() -> None:
    assert chosen(strategy="pro", lam=0.0)[0] == {"x": "ae", "y": "bd", "z": "de"}
    assert chosen(strategy="snr")[0]["y"] != chosen(strategy="pro", lam=0.0)[0]["y"]
    assert chosen(strategy="rgn")[0]["z"] == "ab"  # 1, 1/4, 1/16, 6/64, 5/256


@pytest.mark.parametrize("solver", ["ascent", "milp"])
def test_agreement_makes_choices_alike(solver: str) -> None:
    alike, _ = chosen(strategy="pro", lam=1.0, solver=solver)
    assert len(set(alike.values())) == 1
    assert set(chosen(strategy="rgn", lam=1.0)[0].values()) == {chosen(strategy="rgn", lam=1.0)[0]["x"]}


def test_what_agreement_leaves_of_a_budget_is_topped_up() -> None:
    short, figures = chosen(lam=1.0, budget={"x": 1.0, "*": 3.0}, top_up=False)
    assert len(set(short.values())) == 1
    assert figures.figures["budget_used"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    full, figures = chosen(lam=1.0, budget={"x": 1.0, "*": 3.0})
    assert [len(full[client]) for client in "xyz"] == [1, 3, 3]
    assert figures.figures["budget_used"] == 1


def test_a_budget_in_flops_prefers_layers_near_the_output() -> None:
    found, _ = chosen(lam=0.0, cost="flops", budget=2.3)
    assert found == {"x": "de", "y": "de", "z": "de"}


def test_the_figures_by_hand() -> None:
    masks = np.array([[True, False, False], [True, True, False]])
    gradient = np.array([[4.0, 2.0, 1.0], [8.0, 4.0, 5.0]])
    found = choice_figures(
        "abc", masks, [30, 10], spent=np.array([1.0, 2.0]), budgets=np.array([2.0, 2.0]), gradient=gradient
    )
    assert found["distinct_layers"] == 2
    assert found["budget_used"] == pytest.approx(0.75)
    weights, alpha = np.array([0.0, 1.0]), np.array([0.75, 0.25])  # of layer b
    chi = ((weights - alpha) ** 2 / alpha).sum()
    assert found["disagreement"] == pytest.approx(chi)
    assert found["unselected_gradient"] == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert found["disagreement_bound"] == pytest.approx(chi * (0.75 * 2 + 0.25 * 4))
    assert {name: layer["clients"] for name, layer in found["layers"].items()} == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("select", "where"),
    [
        ({"strategy": "snr"}, "select.batches"),
        ({"budget": []}, "select.budget"),
        ({"budget": {}}, "select.budget"),
        ({"budget": 0}, "select.budget"),
        ({"lam": -1}, "select.lam"),
        ({"batches": 5}, "select.batches"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, select: dict[str, Any], where: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(small_recipe(tmp_path, select={"kind": "layers", **select}))
    assert caught.value.problems[0].where.startswith(where)


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": {"kind": "gossip"}, "federation": {"clients": 6}},
        {"protocol": {"kind": "buffered", "size": 2}},
        {"protocol": {"kind": "distillation"}, "public": {"data": "builtin:pydoc"}},
    ],
)
def test_a_protocol_must_send_choices(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"`layers` needs chosen parts"):
        load_recipe(small_recipe(tmp_path, select={"kind": "layers"}, **other))


def test_a_budget_pays_for_a_layer() -> None:
    with pytest.raises(RecipeError, match=r"select\.budget: 0\.5 is less than the cheapest layer"):
        LayerSelection(budget=[0.5, 2.0]).check(LAYERS, [str(number) for number in range(20)], 0)
    LayerSelection(budget=1.2, cost="flops").check(LAYERS, ["a"], 0)
    LayerSelection(budget=0.5, strategy="full").check(LAYERS, ["a"], 0)
    with pytest.raises(RecipeError, match="is in 0 layers"):
        LayerSelection().check(TunableLayers((), (), (), (), (), ()), ["a"], 0)
