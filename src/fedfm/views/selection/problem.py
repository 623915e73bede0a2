"""Problem P1 of Sun et al., arXiv:2408.15600: which layers each client of a round trains.

    maximise   Σ_i Σ_l m_i(l)·s_i(l) − (λ/2)·Σ_i Σ_{j≠i} ‖m_i − m_j‖₁     over masks m_i ∈ {0,1}^L
    subject to cost(m_i) ≤ R_i for each client i

s_i(l) is ‖g_i,l‖², here as a share of the client's sum. With c_l clients that choose layer l, the second term is
λ·Σ_l c_l·(N − c_l): it rewards agreement, and no variable for pairs of clients is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfm.views.selection.budgets import LayerCosts


@dataclass(frozen=True)
class SelectionProblem:
    """P1 of one round.

    Attributes:
        scores: s, ``[N, L]``, not negative.
        lam: λ.
        costs: of layers.
        budgets: R, ``[N]``; infinite where a client may choose everything.
    """

    scores: np.ndarray
    lam: float
    costs: LayerCosts
    budgets: np.ndarray

    def value(self, masks: np.ndarray) -> float:
        """The objective of masks, bool ``[N, L]``."""
        counts = masks.sum(0)
        return float(self.scores[masks].sum() - self.lam * (counts * (len(masks) - counts)).sum())


def shares(scores: np.ndarray) -> np.ndarray:
    """Scores ``[N, L]`` of which each client's sum is 1; a client whose scores are all zero has equal ones."""
    totals = scores.sum(1, keepdims=True)
    return np.where(totals > 0, scores / np.where(totals > 0, totals, 1.0), 1.0 / scores.shape[1])
