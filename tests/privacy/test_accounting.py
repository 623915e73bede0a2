"""P5: ε and noise multipliers against the values that other accountants gave, and against the closed form."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedfm.errors import StorageError
from fedfm.privacy import Ledger, Promise
from fedfm.privacy.accounting import COARSE, calibrated, effective, epsilon

REFERENCE = [  # z, q, rounds, δ → ε of dp-accounting's PLD, of Opacus' PRV, of RDP
    (1.0, 0.01, 1000, 1e-5, 1.828244, 1.838372, 2.101367),
    (1.0, 0.1, 100, 1e-3, 4.784350, 4.794894, 5.655053),
    (0.8, 0.05, 200, 1e-4, 6.472586, 6.483139, 7.510011),
    (4.0, 1.0, 20, 1e-2, 2.693641, 2.704095, 3.184638),
    (0.7, 0.0064, 471, 1e-5, 2.477461, 2.487743, 3.218744),
]


@pytest.mark.parametrize(("z", "q", "rounds", "delta", "pld", "prv", "rdp"), REFERENCE)
def test_p5_reference_values(z: float, q: float, rounds: int, delta: float, pld: float, prv: float, rdp: float) -> None:
    found = epsilon("pld", z, q, ((1, rounds),), delta, COARSE)
    assert found == pytest.approx(pld, abs=1e-3)
    assert 0 <= prv - found <= 0.02
    renyi = epsilon("rdp", z, q, ((1, rounds),), delta)
    assert renyi == pytest.approx(rdp, abs=1e-3)
    assert renyi >= found


def of_gaussian(mu: float, delta: float) -> float:
    """ε of one Gaussian mechanism with sensitivity / deviation = mu; Balle, Wang, arXiv:1805.06530, Theorem 8."""
    return float(
        brentq(
            lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0, 50, xtol=1e-12
        )
    )


def test_p5_without_sampling_it_is_the_closed_form() -> None:
    assert epsilon("pld", 4.0, 1.0, ((1, 20),), 1e-2) == pytest.approx(of_gaussian(math.sqrt(20) / 4, 1e-2), abs=1e-5)


@pytest.mark.parametrize(
    ("target", "delta", "q", "rounds", "z"), [(3, 1e-4, 0.05, 200, 1.163491), (8, 1e-2, 1.0, 50, 2.887563)]
)
def test_p5_calibration(target: float, delta: float, q: float, rounds: int, z: float) -> None:
    found = calibrated("pld", target, q, rounds, delta)
    assert found == pytest.approx(z, rel=1e-3)
    assert epsilon("pld", found, q, ((1, rounds),), delta) <= target


def test_more_rounds_less_noise_and_larger_samples_cost_more() -> None:
    def cost(z: float = 1.0, q: float = 0.1, rounds: int = 10) -> float:
        return epsilon("pld", z, q, ((1, rounds),), 1e-3, COARSE)

    assert cost() < cost(rounds=11)
    assert cost() < cost(z=0.9)
    assert cost() < cost(q=0.12)


def test_the_reference_of_adaptive_clipping() -> None:
    """Arithmetic of arXiv:1905.03871, Theorem 1: z = 1 and σ_b = 5 give z_Δ = 1.005037815."""
    assert effective([1.005037815, 2 * 5]) == pytest.approx(1.0, abs=1e-9)


PROMISE = Promise("client", 1e-3, 1.0, 0.3, 30.0, budget=6.0)


def test_rounds_that_were_played_again_cost_more_than_other_rounds() -> None:
    """The same sample is released twice: hockey-stick divergence of the mixture, by quadrature."""
    twice, two = PROMISE.epsilon({1: 2}), PROMISE.epsilon({1: 1, 2: 1})
    assert twice > two
    q, mu, delta = PROMISE.rate, math.sqrt(2) / PROMISE.noise_multiplier, PROMISE.delta
    x = np.linspace(-12, 14, 2_000_001)
    without, with_client = norm.pdf(x), (1 - q) * norm.pdf(x) + q * norm.pdf(x, mu)

    def excess(e: float, p: np.ndarray, other: np.ndarray) -> float:
        return float(np.trapezoid(np.maximum(p - math.exp(e) * other, 0), x)) - delta

    exact = max(
        brentq(lambda e: excess(e, with_client, without), 0, 20),
        brentq(lambda e: excess(e, without, with_client), 0, 20),
    )
    assert twice == pytest.approx(exact, abs=2e-3)
    assert twice >= exact


def test_t23_the_budget_lasts_to_the_last_round_that_keeps_it() -> None:
    promise = replace(PROMISE, accountant="rdp")  # quicker
    last = promise.affordable({}, 1, 50)
    assert 1 < last < 50
    spent = dict.fromkeys(range(1, last + 1), 1)
    assert promise.epsilon(spent) <= 6.0 < promise.epsilon(spent | {last + 1: 1})
    assert promise.affordable(spent, last + 1, 50) == last
    assert promise.affordable({1: 2, 2: 2}, 1, 50) < last  # what a killed run has released counts
    assert replace(promise, budget=None).affordable({}, 1, 50) == 50


def test_p7_a_ledger_is_read_as_it_was_written() -> None:
    lines = [
        {"kind": "promise", **PROMISE.record()},
        {"kind": "cohort", "round": 1, "clients": ["a", "c"]},
        {"kind": "release", "round": 1, "noise_multiplier": 1.0, "clip": 0.5},
        {"kind": "release", "round": 1, "noise_multiplier": 1.0, "clip": 0.5},
    ]
    ledger = Ledger.of(lines)
    assert ledger == Ledger(PROMISE, {1: ("a", "c")}, Counter({1: 2}))
    with pytest.raises(StorageError, match=r"line 2 of privacy\.jsonl is damaged"):
        Ledger.of([lines[0], {"kind": "release", "round": 1}])
