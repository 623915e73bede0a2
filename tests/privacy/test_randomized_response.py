"""Randomised response: its probabilities, its estimate, and its ε."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedfm.privacy.randomized_response import estimated, responded


def test_the_estimate_by_hand() -> None:
    # ε = ln 2 and three classes: p = 2/4, q = 1/4; of 8 answers (4, 3, 1): (4 − 2, 3 − 2, 1 − 2) / (1/4)
    np.testing.assert_allclose(estimated([4, 3, 1], math.log(2)), [8, 4, -4])


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_answers_have_the_probabilities_of_the_mechanism(epsilon: float) -> None:
    examples, classes = 20_000, 4
    answers = responded([0, examples, 0, 0], epsilon)
    assert sum(answers) == examples
    keep = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    expected = np.full(classes, (1 - keep) / (classes - 1))
    expected[1] = keep
    deviations = np.sqrt(examples * expected * (1 - expected))
    assert (abs(answers - examples * expected) < 6 * deviations).all()  # 1 in 10⁸
    assert expected.max() / expected.min() == pytest.approx(math.exp(epsilon))  # ε for each example


def test_the_estimate_has_no_bias() -> None:
    counts = [500, 100, 0]
    found = np.mean([estimated(responded(counts, 1.0), 1.0) for _ in range(300)], axis=0)
    np.testing.assert_allclose(found, counts, atol=15)  # 6 standard errors


def test_a_large_epsilon_and_a_single_class_are_exact() -> None:
    assert responded([7, 0, 5], 700.0) == [7, 0, 5]
    assert estimated(responded([9], 0.1), 0.1) == [9.0]
