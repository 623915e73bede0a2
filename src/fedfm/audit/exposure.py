"""Exposure: how far a planted canary stands out among canaries that were not planted.

Carlini et al., The Secret Sharer, arXiv:1802.08232, Definition 4:

    exposure = log₂ |R| − log₂ rank

R is the canary with all that were not planted: the references, and those whose coin forbade it. Canaries are ranked by
how much the run lowered their loss; the paper ranks by the loss itself, which says less where a pretrained model finds
some random sequences less unlikely than others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from fedfm.audit.base import Audit, Audited, NotMeasuredError


class Exposure(Audit):
    """Exposure of the planted canaries, in bits."""

    def measure(self, run: Audited) -> dict[str, Any]:
        """``mean``, ``median``, ``highest``; ``by_chance`` and ``most``, their limits; ``p_value``.

        ``p_value`` is that of the test by Mann and Whitney that planted canaries are like the others.
        """
        canaries = run.planted()
        planted = canaries.tossed.at(canaries.planted).fall
        others = np.concatenate([canaries.references.fall, canaries.tossed.at(~canaries.planted).fall])
        planted, others = planted[np.isfinite(planted)], others[np.isfinite(others)]
        if not len(planted) or not len(others):
            raise NotMeasuredError(
                "no canary was planted, or nothing is predicted in them; plant more (audit.canaries)"
            )
        found = exposures(planted, others)
        return {
            "planted": len(planted),
            "others": len(others),
            "mean": float(found.mean()),
            "median": float(np.median(found)),
            "highest": float(found.max()),
            "by_chance": by_chance(len(others)),
            "most": float(np.log2(len(others) + 1)),
            "p_value": float(mannwhitneyu(planted, others, alternative="greater").pvalue),
        }


def exposures(planted: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Bits, ``[N]``; among equal scores a canary has the last rank.

    Args:
        planted: scores, ``[N]``; a higher one ranks first.
        others: scores of canaries that were not planted, ``[M]``.
    """
    higher = len(others) - np.searchsorted(np.sort(others), planted, side="left")
    bits: np.ndarray = np.log2(len(others) + 1) - np.log2(1 + higher)
    return bits


def by_chance(others: int) -> float:
    """Mean exposure of a canary that the model has not seen, among so many others."""
    return float(np.log2(others + 1) - np.log2(np.arange(1, others + 2)).mean())
