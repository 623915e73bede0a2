"""Clients of equal size with different labels: each client's mix of labels is drawn from a Dirichlet distribution.

Symmetric: Dir(α·1), the same α for each class. Prior-scaled: Dir(α·p), where p are the frequencies of the labels (Hsu
et al., arXiv:1909.06335, §3). With K classes, the concentration of the second sums to α, not to K·α, so it is far more
skewed at the same α. FedPFT (arXiv:2404.11536) and FedPETuning use the prior-scaled form: compare with their tables
under ``prior: true`` only.
"""

from __future__ import annotations

from bisect import bisect
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.capabilities import LABELS
from fedfm.data.partitions.base import Partitioner, Pool, require_examples, synthetic_clients

_BALANCING_TURNS = 100


class Dirichlet(Partitioner):
    """Sizes differ by at most one. Each example is used once, so the clients' mixes average to the mix of the data."""

    needs = {LABELS: "it splits by label; use iid, quantity or column"}

    kind: Literal["dirichlet"] = "dirichlet"
    """Clients of equal size differ in their mix of labels."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """α: smaller is more skewed; 0.1 gives nearly one label a client, 100 is nearly iid."""
    prior: bool = False
    """Scale α by each label's frequency (FedPFT, FedPETuning) in place of α for every label alike."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Clients draw in turn, one example at a time, each from its own mix over the labels that remain."""
        classes = self._labels(pool)
        require_examples(pool.count, clients)
        values, numbers, frequencies = np.unique(classes, return_inverse=True, return_counts=True)
        prior = frequencies / pool.count
        mixes = generator.dirichlet(self.alpha * (prior if self.prior else np.ones(len(values))), size=clients)
        mixes = _balanced(mixes, prior)
        pools = [generator.permutation(np.flatnonzero(numbers == label)).tolist() for label in range(len(values))]
        hands: list[list[int]] = [[] for _ in range(clients)]
        thresholds = _thresholds(mixes, pools)
        for turn, draw in enumerate(generator.random(pool.count).tolist()):
            client = turn % clients
            remaining = pools[bisect(thresholds[client], draw)]
            hands[client].append(remaining.pop())
            if not remaining:
                thresholds = _thresholds(mixes, pools)
        return synthetic_clients([np.array(hand) for hand in hands])


def _balanced(mixes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Rescales mixes [clients, K] until their mean over clients is ``prior``, alternating between labels and clients.

    Clients of equal size use all examples according to their mixes only if the mixes average to the data. FLGo, which
    FedPFT uses, draws until this holds; here one draw is corrected. Without the correction, the last turns would assign
    the remaining examples regardless of the mixes.
    """
    mixes = np.maximum(mixes, np.finfo(np.float64).tiny)
    for _ in range(_BALANCING_TURNS):
        mixes = mixes * (prior / mixes.mean(axis=0))
        mixes = mixes / mixes.sum(axis=1, keepdims=True)
    return mixes


def _thresholds(mixes: np.ndarray, pools: list[list[int]]) -> list[list[float]]:
    """Each client's cumulative mix of the labels that remain; a draw u in [0, 1) selects the first label above it."""
    left = np.array([bool(pool) for pool in pools])
    cumulative = np.cumsum(mixes * left, axis=1)
    cumulative = cumulative / np.maximum(cumulative[:, -1:], np.finfo(np.float64).tiny)
    cumulative[:, np.flatnonzero(left)[-1:]] = 1.0
    result: list[list[float]] = cumulative.tolist()
    return result
