"""The lower bound on ε: known answers, and what it says of randomised response, whose ε is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from fedfm.audit.one_run import Guesses, epsilon_lower, grouped, guesses, p_value_of


def test_without_delta_it_is_the_binomial_tail() -> None:
    assert p_value_of(Guesses(10, 10, 10), 0.0, 0.0) == pytest.approx(2**-10)
    assert p_value_of(Guesses(10, 4, 3), math.log(3), 0.0) == pytest.approx(4 * 0.75**3 * 0.25 + 0.75**4)
    # all of r guesses right: q^r = 0.05
    bound = epsilon_lower(Guesses(100, 100, 100), 0.0, 0.05)
    assert bound == pytest.approx(math.log(0.05**0.01 / (1 - 0.05**0.01)), abs=1e-4)


def test_delta_adds_the_slack_of_the_theorem() -> None:
    m, r, v, epsilon, delta = 50, 20, 15, 0.7, 1e-3
    chance = 1 / (1 + math.exp(-epsilon))
    tail = sum(binom.pmf(k, r, chance) for k in range(v, r + 1))
    slack = max(sum(binom.pmf(k, r, chance) for k in range(v - i, v)) / i for i in range(1, v + 1))
    assert p_value_of(Guesses(m, r, v), epsilon, delta) == pytest.approx(tail + 2 * m * delta * slack)


def test_half_right_bounds_nothing() -> None:
    assert epsilon_lower(Guesses(100, 100, 50), 0.0, 0.05) == 0.0


def test_guesses_are_the_ends_of_the_ranking() -> None:
    planted = np.array([True, True, True, False, True, False, False, False])
    found = guesses(np.arange(8.0)[::-1], planted)
    assert [(one.made, one.right) for one in found] == [(2, 2), (4, 4), (8, 6)]
    assert guesses(np.zeros(1), np.array([True])) == []


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_randomised_response_is_bounded_by_its_epsilon_and_nearly_so(epsilon: float) -> None:
    generator, m, trials = np.random.default_rng(3), 1000, 200
    truthful = 1 / (1 + math.exp(-epsilon))
    right = generator.binomial(m, truthful, size=trials)
    bounds = np.array([epsilon_lower(Guesses(m, m, int(v)), 0.0, 0.05) for v in right])
    assert (bounds <= epsilon).mean() >= 0.90  # 0.95, less three standard deviations of 200 trials
    assert bounds.mean() > 0.85 * epsilon - 0.1


def test_group_privacy() -> None:
    epsilon, delta = grouped(1.0, 1e-5, 2)
    assert epsilon == 2.0
    assert delta == pytest.approx(1e-5 * (1 + math.e))
    assert grouped(8.0, 1e-3, 2)[1] == 1.0  # vacuous: nothing can refute it
