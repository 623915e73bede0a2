"""Scores of synthetic texts: fidelity, diversity, and how near they are to the examples that voted.

Fidelity is the kernel distance of Bińkowski et al., Demystifying MMD GANs, arXiv:1801.01401, §4.3 (KID): with features
x of one set and y of the other, d of each, and k(x, y) = (x·y/d + 1)³,

    MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2·mean_{i,j} k(x_i, y_j)

without bias: 0 on average for two samples of one distribution, and below 0 by chance. Diversity is distinct-n, Li et
al., arXiv:1510.03055: different n-grams of words over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """MMD² of two sets of features, float ``[N, d]`` and ``[M, d]``, N and M at least 2."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found: np.ndarray = (a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1) ** 3
        return found

    def within(a: np.ndarray) -> float:
        found = kernel(a, a)
        return float((found.sum() - np.trace(found)) / (len(a) * (len(a) - 1)))

    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams, from 0 to 1; 0 where no text has n words."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """float64 ``[N]``: Euclidean distance from each row of x ``[N, d]`` to the nearest row of y ``[M, d]``."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    found: np.ndarray = np.sqrt(np.clip(squares.min(1), 0, None))
    return found


def nearer_to_first(x: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Share of the rows of x that are nearer to some row of ``first`` than to any of ``second``; ties count half.

    With two samples of one distribution and of one size it is ½ on average where x tells nothing of either.
    """
    own, other = nearest(x, first), nearest(x, second)
    ties = np.isclose(own, other, rtol=1e-5, atol=1e-5)
    return float(np.where(ties, 0.5, own < other).mean())
