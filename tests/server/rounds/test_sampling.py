"""Sampling of cohorts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedfm.server.rounds.sampling import sample_cohort

SIZES = {f"{index:02d}": index + 1 for index in range(20)}


def draw(
    number: int, *, sampling: str = "uniform", per_round: float = 5, sizes: dict[str, int] | None = None
) -> dict[str, int]:
    return sample_cohort(sizes or SIZES, per_round, sampling=sampling, seed=0, round=number)


@pytest.mark.parametrize("sampling", ["uniform", "poisson", "weighted"])
def test_a_cohort_is_keyed_by_its_round_and_not_by_the_order_of_clients(sampling: str) -> None:
    reversed_sizes = dict(reversed(SIZES.items()))
    assert draw(3, sampling=sampling) == draw(3, sampling=sampling, sizes=reversed_sizes)
    assert list(draw(3, sampling=sampling)) == sorted(draw(3, sampling=sampling))
    assert any(draw(3, sampling=sampling) != draw(number, sampling=sampling) for number in range(4, 9))


def test_uniform_cohorts_have_different_clients_all_equally_often() -> None:
    drawn = Counter(client for number in range(2000) for client in draw(number))
    assert all(len(draw(number)) == 5 and set(draw(number).values()) == {1} for number in range(20))
    counts = np.array([drawn[client] for client in SIZES])
    # 2000 cohorts of 5 of 20: mean 500, deviation √(2000·¼·¾) ≈ 19.4
    assert np.abs(counts - 500).max() < 5 * 19.4


def test_everybody_takes_part_when_all_are_asked() -> None:
    assert list(draw(1, per_round=20)) == sorted(SIZES)


def test_poisson_cohorts_have_the_right_mean_and_spread() -> None:
    sizes = np.array([len(draw(number, sampling="poisson")) for number in range(3000)])
    # Binomial(20, ¼): mean 5, variance 3.75
    assert abs(sizes.mean() - 5) < 5 * np.sqrt(3.75 / 3000)
    assert abs(sizes.var() - 3.75) < 0.5
    assert sizes.min() == 0


def test_poisson_rates_need_not_be_whole_numbers() -> None:
    sizes = np.array([len(draw(number, sampling="poisson", per_round=0.3)) for number in range(3000)])
    assert abs(sizes.mean() - 0.3) < 5 * np.sqrt(0.3 / 3000)


def test_weighted_draws_follow_the_clients_sizes() -> None:
    drawn: Counter[str] = Counter()
    for number in range(3000):
        cohort = draw(number, sampling="weighted")
        assert sum(cohort.values()) == 5
        drawn.update(cohort)
    total = sum(SIZES.values())
    for client, size in SIZES.items():
        expected = 15000 * size / total
        assert abs(drawn[client] - expected) < 5 * np.sqrt(expected)
