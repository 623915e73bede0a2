"""Valuations against brute force over orders, and on games of which the scores are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from fedfm.contributions import (
    CONTRIBUTIONS,
    AnyValuation,
    Banzhaf,
    Game,
    GradientCosine,
    GtgShapley,
    LeaveOneOut,
    Shapley,
    UtilityValuation,
)
from fedfm.params import Params

Value = Callable[[frozenset[str]], float]


class ByHand(Game):
    """A game whose values are those of a function."""

    def __init__(self, clients: Sequence[str], value: Value, seed: int = 0, updates: Sequence[Params] = ()) -> None:
        super().__init__(clients, np.random.default_rng(seed))
        self.function, self.updates, self.asked = value, dict(zip(clients, updates, strict=False)), list[list[str]]()

    def evaluate(self, coalition: Sequence[str]) -> float:
        self.asked.append(list(coalition))
        return self.function(frozenset(coalition))

    def update(self, client: str) -> Params:
        return self.updates[client]

    def aggregate(self) -> Params:
        return {name: sum(u[name] for u in self.updates.values()) for name in next(iter(self.updates.values()))}  # type: ignore[misc]


def any_values(clients: str, seed: int) -> Value:
    """A random number for each coalition."""
    rng = np.random.default_rng(seed)
    table = {frozenset(c): rng.normal() for n in range(len(clients) + 1) for c in combinations(clients, n)}
    return table.__getitem__


def over_orders(clients: str, value: Value) -> dict[str, float]:
    """The mean gain of each client over all orders."""
    total = dict.fromkeys(clients, 0.0)
    for order in permutations(clients):
        for place, client in enumerate(order):
            total[client] += value(frozenset(order[: place + 1])) - value(frozenset(order[:place]))
    return {client: gain / math.factorial(len(clients)) for client, gain in total.items()}


def noisy_clients(seed: int) -> Value:
    """Eight logistic regressions of one round; client i has the wrong label in 0.1·i of its examples, on average."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=8)

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(count, 8))
        return x, (x @ truth > 0).astype(float)

    updates = {}
    for place, client in enumerate("abcdefgh"):
        (x, y), w = examples(200), np.zeros(8)
        y = np.where(rng.random(200) < 0.1 * place, 1 - y, y)
        for _ in range(10):
            w -= 0.5 * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
        updates[client] = w
    x, y = examples(500)

    def minus_loss(coalition: frozenset[str]) -> float:
        w = np.mean([updates[c] for c in sorted(coalition)], 0) if coalition else np.zeros(8)
        return float(-np.logaddexp(0, np.where(y > 0, -1, 1) * (x @ w)).mean())

    return minus_loss


def rank_correlation(one: Iterable[float], other: Iterable[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(list(values))) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("kind", CONTRIBUTIONS)
def test_registry_and_schema_agree(kind: str) -> None:
    assert type(TypeAdapter(AnyValuation).validate_python({"kind": kind})) is CONTRIBUTIONS[kind]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_shapley_is_the_mean_over_all_orders_and_efficient(size: int) -> None:
    clients = "abcde"[:size]
    for seed in range(3):
        value = any_values(clients, seed)
        game = ByHand(clients, value)
        found = Shapley().scores(game)
        assert found == pytest.approx(over_orders(clients, value), abs=1e-12)
        assert sum(found.values()) == pytest.approx(value(frozenset(clients)) - value(frozenset()), abs=1e-12)
        assert game.evaluations == len(game.asked) == 2**size


EXACT = [Shapley(), Banzhaf(), GtgShapley(within=0, between=0, tolerance=0, evaluations=4000)]


@pytest.mark.parametrize("valuation", [*EXACT, LeaveOneOut()])
def test_clients_that_add_the_same_score_alike_and_one_that_adds_nothing_scores_zero(
    valuation: UtilityValuation,
) -> None:
    def value(coalition: frozenset[str]) -> float:  # a and b replace each other, null adds nothing
        return 3.0 * bool(coalition & {"a", "b"}) + len(coalition & {"a", "b", "c"}) ** 2

    found = valuation.scores(ByHand(["a", "null", "c", "b"], value))
    assert found["null"] == 0
    assert found["a"] == pytest.approx(found["b"], rel=0.05)
    assert found["c"] > 0


def test_leave_one_out_is_a_difference_and_takes_one_evaluation_more_than_there_are_clients() -> None:
    value = any_values("abcd", 3)
    game = ByHand("abcd", value)
    everyone = frozenset("abcd")
    expected = {c: value(everyone) - value(everyone - {c}) for c in "abcd"}
    assert LeaveOneOut().scores(game) == pytest.approx(expected)
    assert game.evaluations == 5


def test_banzhaf_is_the_mean_gain_over_all_coalitions() -> None:
    value = any_values("abcde", 4)
    expected = {}
    for client in "abcde":
        others = [c for c in "abcde" if c != client]
        joins = [frozenset(s) for n in range(5) for s in combinations(others, n)]
        expected[client] = np.mean([value(s | {client}) - value(s) for s in joins])
    exact = Banzhaf(evaluations=32).scores(ByHand("abcde", value))
    assert exact == pytest.approx(expected, abs=1e-12)

    weights = dict(zip("abcdefghij", range(10), strict=True))

    def additive(coalition: frozenset[str]) -> float:
        return float(sum(weights[c] for c in coalition))

    games = [ByHand("abcdefghij", additive, seed) for seed in range(20)]
    sampled = [list(Banzhaf(evaluations=200).scores(game).values()) for game in games]
    assert max(game.evaluations for game in games) <= 200
    np.testing.assert_allclose(np.mean(sampled, 0), list(weights.values()), atol=1.0)
    assert np.std(sampled, 0).max() > 0.1  # they are estimates


def test_gtg_shapley_has_the_order_of_the_exact_value_with_a_fifth_of_the_evaluations() -> None:
    correlations, ranked = [], []
    for seed in range(10):
        value = noisy_clients(seed)
        exact = Shapley().scores(ByHand("abcdefgh", value))
        game = ByHand("abcdefgh", value, seed)
        found = GtgShapley(evaluations=51, utility="loss").scores(game)
        assert game.evaluations <= 2**8 / 5
        correlations.append(rank_correlation(found.values(), exact.values()))
        ranked.append(rank_correlation(found.values(), range(8, 0, -1)))
    assert np.mean(correlations) >= 0.95
    assert np.mean(ranked) >= 0.95


def test_gtg_shapley_comes_to_the_exact_value() -> None:
    value = noisy_clients(1)
    exact = Shapley().scores(ByHand("abcdefgh", value))
    valuation = GtgShapley(within=0, tolerance=0, evaluations=5000)
    assert valuation.scores(ByHand("abcdefgh", value)) == pytest.approx(exact, abs=0.05 * max(exact.values()))


def test_gtg_shapley_is_efficient_unless_it_truncates() -> None:
    value = any_values("abcd", 5)
    found = GtgShapley(within=0, between=0).scores(ByHand("abcd", value))
    assert sum(found.values()) == pytest.approx(value(frozenset("abcd")) - value(frozenset()))


def test_gtg_shapley_skips_a_round_that_changes_little() -> None:
    game = ByHand("abc", lambda coalition: 0.01 * len(coalition) * (3 - len(coalition)))
    assert GtgShapley(between=0.001).scores(game) == {"a": 0, "b": 0, "c": 0}
    assert game.evaluations == 2


def test_an_order_of_gtg_shapley_ends_where_it_is_near_the_value_of_all() -> None:
    game = ByHand("abcdef", lambda coalition: float(bool(coalition)))
    assert GtgShapley().scores(game) == pytest.approx(dict.fromkeys("abcdef", 1 / 6), rel=0.2)
    assert game.evaluations == 2 + 6  # nothing, all, and each client alone


def test_gtg_shapley_keeps_its_budget_but_plays_one_order_and_ends_where_nothing_is_finite() -> None:
    game = ByHand("abcdefgh", any_values("abcdefgh", 6))
    assert any(GtgShapley(evaluations=2).scores(game).values())
    assert game.evaluations == 9
    found = GtgShapley().scores(ByHand("abc", lambda coalition: math.nan if len(coalition) == 1 else len(coalition)))
    assert set(found) == set("abc")


def test_cosine_by_hand() -> None:
    updates = [
        {"x": torch.tensor(values), "y": torch.tensor([last])}
        for values, last in (
            ([1.0, 0.0], 0.0),
            ([1.0, 1.0], 2.0),
            ([-1.0, 0.0], -1.0),
            ([0.0, 0.0], 0.0),
        )
    ]
    whole = np.array([1.0, 1.0, 1.0])
    rows = np.array([[1, 0, 0], [1, 1, 2], [-1, 0, -1]], float)
    expected = [*(rows @ whole / np.linalg.norm(rows, axis=1) / np.linalg.norm(whole)), 0.0]
    game = ByHand("abcd", lambda _: math.nan, updates=updates)
    assert list(GradientCosine().scores(game).values()) == pytest.approx(expected)
    assert game.evaluations == 0
