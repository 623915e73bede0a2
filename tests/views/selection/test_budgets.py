"""What choices of layers cost, and what clients may spend."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from fedfm.views.selection import TunableLayers
from fedfm.views.selection.budgets import LayerCosts, budget_of

LAYERS = TunableLayers(
    names=("0", "1", "2"),
    tensors=(("a",), ("b",), ("c",)),
    beside=(),
    trained=(10, 10, 40),
    total=(100, 100, 100),
    kept=(2**18, 2**18, 2**18),
    tokens=8,
    moments=2,
)


def test_layers_count_as_one() -> None:
    costs = LayerCosts.of(LAYERS, "layers")
    assert costs.of_choice(np.array([True, False, True])) == 2
    assert costs.of_choice(np.zeros(3, bool)) == 0


def test_flops_go_through_all_layers_above_the_lowest() -> None:
    costs = LayerCosts.of(LAYERS, "flops")
    assert costs.of_choice(np.array([False, False, True])) == pytest.approx(1 + 0.4)
    assert costs.of_choice(np.array([True, False, False])) == pytest.approx(3 + 0.1)
    assert costs.of_choice(np.array([True, False, True])) == pytest.approx(3 + 0.5)


def test_memory_is_gradients_state_and_activations() -> None:
    costs = LayerCosts.of(LAYERS, "memory")
    activations = 8 * 2**18 * 4 / 2**20  # tokens × values × bytes: 8 MiB a layer
    state = 4 * 3 / 2**20  # gradient and two moments of a parameter
    assert costs.of_choice(np.array([False, True, False])) == pytest.approx(2 * activations + 10 * state)


@pytest.mark.parametrize("depth", [0.0, 0.4])
@pytest.mark.parametrize("alike", [True, False])
def test_the_best_choice_is_that_of_trying_all(depth: float, alike: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        each = np.ones(6) if alike else rng.uniform(0.5, 2, 6)
        costs = LayerCosts(each, np.full(6, depth))
        gains, budget = rng.normal(size=6), float(rng.uniform(0.5, 6))
        best = max(
            gains[mask].sum()
            for mask in map(np.array, itertools.product([False, True], repeat=6))
            if costs.fits(mask, budget)
        )
        found = costs.best(gains, budget)
        assert costs.fits(found, budget)
        assert gains[found].sum() == pytest.approx(best)


def test_an_unlimited_budget_takes_all_that_gains() -> None:
    costs = LayerCosts(np.ones(3), np.zeros(3))
    assert costs.best(np.array([1.0, -1.0, 2.0]), math.inf).tolist() == [True, False, True]


def test_budgets_of_clients() -> None:
    assert budget_of(2.0, "a", 0) == 2
    assert [budget_of({"phone-1": 3.0, "phone-*": 1.0}, c, 0) for c in ("phone-1", "phone-2", "b")] == [3, 1, math.inf]
    dealt = [budget_of([1.0, 4.0], f"{number:03d}", 0) for number in range(200)]
    assert 70 <= Counter(dealt)[1.0] <= 130
    assert dealt == [budget_of([1.0, 4.0], f"{number:03d}", 0) for number in range(200)]
    assert dealt != [budget_of([1.0, 4.0], f"{number:03d}", 1) for number in range(200)]
