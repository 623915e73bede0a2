"""Clients of one size with unlike labels: each client's mix of labels is drawn from a Dirichlet distribution.

Symmetric: Dir(α·1), every class alike. Prior-scaled: Dir(α·p) with p the frequencies of the labels (Hsu et al.,
arXiv:1909.06335, §3); with K classes its concentration sums to α, not to K·α, so at the same α it is far more skewed.
FedPFT (arXiv:2404.11536) and FedPETuning use the latter: compare with their tables under ``prior: true`` only.
"""

from __future__ import annotations

from bisect import bisect
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.capabilities import LABELS
from fedfm.data.partitions.base import Partitioner, require_examples, synthetic_clients

_BALANCING_TURNS = 100


class Dirichlet(Partitioner):
    """Sizes differ by one at most; each example is used once, so the clients' mixes average to that of the data."""

    needs = {LABELS: "it splits by label; use iid, quantity or column"}

    kind: Literal["dirichlet"] = "dirichlet"
    """Clients of equal size differ in their mix of labels."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """α: smaller is more skewed; 0.1 gives nearly one label a client, 100 is nearly iid."""
    prior: bool = False
    """Scale α by each label's frequency (FedPFT, FedPETuning) in place of α for every label alike."""

    def split(
        self,
        count: int,
        clients: int,
        generator: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        column: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Clients draw in turn, one example at a time, from their own mix of the labels that are left."""
        classes = self._labels(labels)
        require_examples(count, clients)
        values, numbers, frequencies = np.unique(classes, return_inverse=True, return_counts=True)
        prior = frequencies / count
        mixes = generator.dirichlet(self.alpha * (prior if self.prior else np.ones(len(values))), size=clients)
        mixes = _balanced(mixes, prior)
        pools = [generator.permutation(np.flatnonzero(numbers == label)).tolist() for label in range(len(values))]
        hands: list[list[int]] = [[] for _ in range(clients)]
        thresholds = _thresholds(mixes, pools)
        for turn, draw in enumerate(generator.random(count).tolist()):
            client = turn % clients
            pool = pools[bisect(thresholds[client], draw)]
            hands[client].append(pool.pop())
            if not pool:
                thresholds = _thresholds(mixes, pools)
        return synthetic_clients([np.array(hand) for hand in hands])


def _balanced(mixes: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Mixes [clients, K] whose mean over clients is ``prior``, by turns rescaling labels and clients.

    Clients of one size can use up the data only if their mixes add up to it; FLGo, which FedPFT uses, searches for such
    draws, we correct one. Otherwise the last turns would have to deal whatever is left to everybody.
    """
    mixes = np.maximum(mixes, np.finfo(np.float64).tiny)
    for _ in range(_BALANCING_TURNS):
        mixes = mixes * (prior / mixes.mean(axis=0))
        mixes = mixes / mixes.sum(axis=1, keepdims=True)
    return mixes


def _thresholds(mixes: np.ndarray, pools: list[list[int]]) -> list[list[float]]:
    """Each client's cumulative mix of the labels that are left; a draw u in [0, 1) means the first label above it."""
    left = np.array([bool(pool) for pool in pools])
    cumulative = np.cumsum(mixes * left, axis=1)
    cumulative = cumulative / np.maximum(cumulative[:, -1:], np.finfo(np.float64).tiny)
    cumulative[:, np.flatnonzero(left)[-1:]] = 1.0
    result: list[list[float]] = cumulative.tolist()
    return result
