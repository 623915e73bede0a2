"""Noise that is correlated over rounds (DP-FTRL, matrix mechanisms): later rounds take back a part of what one adds.

Kalinin, McKenna, Upadhyay, Lampert, Back to Square Roots, arXiv:2505.12128: the banded inverse square root (BISR). With
x_t the sum of round t, what is released is x_t + Σ_{j<p} c_j·z_{t−j}, where z_t is fresh noise and c are the first p
coefficients of √(1 − x): 1, −1/2, −1/8, −1/16, … In matrices: X + C⁻¹·Z, with C⁻¹ lower triangular, banded, Toeplitz;
(C·X + Z) says as much, so that the promise is that of one Gaussian release of C·X.

A client that takes part in rounds t_1 < t_2 < …, at least b apart, with updates of norm 1, moves C·X by at most the
norm of the sum of the columns 1, 1 + b, 1 + 2b, … of C, as C is nonnegative and falls along its columns (Theorem 2).
With p = 1, C is the identity: independent noise, and a sensitivity of √k for k rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MOST_BANDS = 64
"""The most p that is tried: so many rounds of noise are drawn again for each round."""


def coefficients(bands: int) -> np.ndarray:
    """c_0 … c_{p−1}, what is released of the noise of this round and of those before it; ``[p]``, float64."""
    found = np.ones(bands)
    for j in range(1, bands):
        found[j] = found[j - 1] * (j - 1.5) / j
    return found


@lru_cache(maxsize=256)
def sensitivity(bands: int, rounds: int, separation: int) -> float:
    """What one client moves all rounds together by, where its update of a round has norm 1.

    Args:
        bands: p.
        rounds: T.
        separation: b.
    """
    column, inverse = np.zeros(rounds), coefficients(min(bands, rounds))
    column[0] = 1.0
    for t in range(1, rounds):
        past = column[max(0, t - len(inverse) + 1) : t][::-1]
        column[t] = -inverse[1 : len(past) + 1] @ past
    total = np.zeros(rounds)
    for start in range(0, rounds, separation):
        total[start:] += column[: rounds - start]
    return float(np.linalg.norm(total))


def error(bands: int, rounds: int, separation: int) -> float:
    """Standard deviation of the noise in the sum of the first t rounds, root mean square over t = 1 … T.

    Args:
        bands: p.
        rounds: T.
        separation: b.

    Returns:
        In units of z·C. It has the noise of √T rounds at worst: what counts is where the model is, not a single step.
    """
    within = np.zeros(rounds)
    inverse = coefficients(min(bands, rounds))
    within[: len(inverse)] = inverse
    variances = np.cumsum(np.cumsum(within) ** 2)
    return float(np.sqrt(variances.mean())) * sensitivity(bands, rounds, separation)


@lru_cache(maxsize=64)
def best_bands(rounds: int, separation: int) -> int:
    """The p with the smallest `error`; 1 where correlated noise does not help.

    Args:
        rounds: T.
        separation: b.
    """
    tried: Sequence[int] = range(1, min(rounds, MOST_BANDS) + 1)
    return min(tried, key=lambda bands: error(bands, rounds, separation))
