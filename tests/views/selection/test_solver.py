"""P1: coordinate ascent against the exact programme, and its limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedfm.views.selection.ascent import ascend
from fedfm.views.selection.budgets import LayerCosts
from fedfm.views.selection.exact import solve
from fedfm.views.selection.problem import SelectionProblem, shares

LAMS = (0.0, 0.001, 0.003, 0.01, 0.03)


def problem(
    rng: np.random.Generator, clients: int, layers: int, lam: float, *, depth: bool = False
) -> SelectionProblem:
    """A random one with unequal budgets."""
    costs = LayerCosts(np.ones(layers), np.zeros(layers))
    if depth:
        costs = LayerCosts(rng.uniform(0.5, 1.5, layers), rng.uniform(0.2, 0.6, layers))
    budgets = rng.integers(1, 5, clients) + 3.0 * depth
    return SelectionProblem(shares(rng.exponential(size=(clients, layers)) ** 1.5), lam, costs, budgets)


def pairs(masks: np.ndarray) -> int:
    """Σ_{i<j} ‖m_i − m_j‖₁, pair by pair."""
    return sum(int((a != b).sum()) for a, b in itertools.combinations(masks, 2))


def feasible(of: SelectionProblem, masks: np.ndarray) -> bool:
    return all(of.costs.fits(mask, budget) for mask, budget in zip(masks, of.budgets, strict=True))


def test_the_objective_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    of = problem(rng, 5, 4, 0.02)
    for _ in range(20):
        masks = rng.random((5, 4)) < 0.5
        expected = (of.scores * masks).sum() - 0.02 * pairs(masks)
        assert of.value(masks) == pytest.approx(expected)


def test_the_programme_finds_what_trying_everything_finds() -> None:
    rng = np.random.default_rng(2)
    for depth in (False, True):
        of = problem(rng, 3, 3, 0.03, depth=depth)
        choices = [np.array(mask) for mask in itertools.product([False, True], repeat=3)]
        best = max(
            of.value(np.stack(masks)) for masks in itertools.product(choices, repeat=3) if feasible(of, np.stack(masks))
        )
        exact = solve(of)
        assert feasible(of, exact)
        assert of.value(exact) == pytest.approx(best)


SIZES = [(4, 5, False, 120), (6, 6, False, 50), (4, 5, True, 30), (10, 12, False, 6), (20, 12, False, 2)]
"""Clients, layers, whether depth counts, cases."""


def test_ascent_is_nearly_always_optimal_and_never_far_from_it() -> None:
    rng, gaps = np.random.default_rng(3), []
    for clients, layers, depth, count in SIZES:
        for number in range(count):
            of = problem(rng, clients, layers, LAMS[number % 4 if clients > 6 else number % 5], depth=depth)
            found, exact = ascend(of), solve(of)
            assert feasible(of, found)
            gaps.append((of.value(exact) - of.value(found)) / abs(of.value(exact)))
    assert len(gaps) >= 200
    assert min(gaps) > -1e-6  # nothing is above the optimum
    assert np.mean(np.array(gaps) < 1e-6) >= 0.98
    assert max(gaps) <= 0.02


@pytest.mark.parametrize("solver", [ascend, solve])
def test_without_agreement_each_client_has_its_own_best_layers(solver: object) -> None:
    of = problem(np.random.default_rng(4), 8, 6, 0.0)
    masks = solver(of)  # type: ignore[operator]
    for scores, mask, budget in zip(of.scores, masks, of.budgets, strict=True):
        assert set(np.flatnonzero(mask)) == set(np.argsort(-scores)[: int(budget)])


@pytest.mark.parametrize("solver", [ascend, solve])
def test_where_only_agreement_counts_all_choose_alike(solver: object) -> None:
    of = problem(np.random.default_rng(5), 7, 6, 1e3)
    masks = solver(of)  # type: ignore[operator]
    assert pairs(masks) == 0
    smallest = int(of.budgets.min())
    assert set(np.flatnonzero(masks[0])) == set(np.argsort(-of.scores.sum(0))[:smallest])


def test_ascent_repeats_itself() -> None:
    of = problem(np.random.default_rng(6), 9, 7, 0.01)
    assert (ascend(of) == ascend(of)).all()


def test_scores_are_shares() -> None:
    found = shares(np.array([[1.0, 3.0], [0.0, 0.0]]))
    assert found.tolist() == [[0.25, 0.75], [0.5, 0.5]]
