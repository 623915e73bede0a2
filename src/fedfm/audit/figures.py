"""Figures of an attack that tells members from others by a score: area under the curve, true positives at few false."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap, rankdata

CONFIDENCE = 0.95
RESAMPLES = 1000


def area(members: np.ndarray, others: np.ndarray, axis: int = -1) -> Any:
    """Probability that a member scores higher than another example, ties counted half (Mann and Whitney).

    Args:
        members: scores, ``[..., M]``.
        others: scores, ``[..., N]``.
        axis: of the examples.
    """
    count, rest = members.shape[axis], others.shape[axis]
    ranks = np.take(rankdata(np.concatenate([members, others], axis=axis), axis=axis), np.arange(count), axis=axis)
    return (ranks.sum(axis=axis) - count * (count + 1) / 2) / (count * rest)


def area_with_interval(
    members: np.ndarray, others: np.ndarray, generator: np.random.Generator, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """``auc`` and ``interval``, a percentile bootstrap over members and others.

    Args:
        members: scores, ``[M]`` with M ≥ 2.
        others: scores, ``[N]`` with N ≥ 2.
        generator: draws the resamples.
        confidence: of the interval.
    """
    resampled = bootstrap(
        (members, others),
        area,
        n_resamples=RESAMPLES,
        batch=50,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=generator,
    ).confidence_interval
    return {"auc": float(area(members, others)), "interval": [float(resampled.low), float(resampled.high)]}


def true_positives(members: np.ndarray, others: np.ndarray, false_positives: float) -> dict[str, Any] | None:
    """Share of the members above the score that at most a share of the others exceeds, with its interval.

    The interval is Clopper's and Pearson's for the members; the threshold is taken as it is.

    Args:
        members: scores, ``[M]``.
        others: scores, ``[N]``.
        false_positives: the share.

    Returns:
        ``rate`` and ``interval``; None where fewer than one of the N could be a false positive.
    """
    allowed = math.floor(false_positives * len(others) + 1e-9)
    if allowed < 1:
        return None
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    found = int((members > threshold).sum())
    interval = binomtest(found, len(members)).proportion_ci(CONFIDENCE)
    return {"rate": found / len(members), "interval": [float(interval.low), float(interval.high)]}
