"""A lower bound on ε from one run.

Steinke, Nasr and Jagielski, Privacy Auditing with One (1) Training Run, arXiv:2305.08846. Each of m canaries is planted
by a fair coin. An attacker ranks them by a score, guesses "planted" for the k highest and "not" for the k lowest, and
abstains from the rest. If the run is (ε, δ)-DP for one coin, then of r = 2k guesses W are right, and (Theorem 5.2)

    P[W ≥ v] ≤ P[B ≥ v] + 2·m·δ·max over i of P[v > B ≥ v − i] / i,    B ~ Binomial(r, e^ε / (1 + e^ε))

The largest ε for which this is below 1 − confidence is a lower bound on ε.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from fedfm.audit.base import Audit, Audited, NotMeasuredError
from fedfm.audit.figures import CONFIDENCE

SHARES = (1.0, 0.5, 0.25, 0.125)
"""Shares of the canaries that are guessed. The best counts, and the confidence is divided among them."""
USUAL_DELTA = 1e-5
"""δ of the bound for a run that promises none."""
HIGHEST = 50.0
"""ε above which no bound is sought."""


class OneRun(Audit):
    """Lower bound on ε from guesses which canaries were planted."""

    def measure(self, run: Audited) -> dict[str, Any]:
        """``epsilon_lower`` at ``confidence`` and ``delta``, for one coin; and whether that refutes the promise.

        A coin replaces ``audit.repeats`` examples of one client by a canary. For a promise per client that is one
        client removed and one added; for one per example, as many for each copy. ``changes`` is this number, and
        ``p_value`` the probability of guesses as good as these if the promise holds.
        """
        canaries = run.planted()
        scores = canaries.tossed.fall
        known = np.isfinite(scores)
        scores, planted = scores[known], canaries.planted[known]
        tries = guesses(scores, planted)
        if not tries:
            raise NotMeasuredError("there are too few canaries to guess from; plant more (audit.canaries)")
        promise = run.promise
        delta = USUAL_DELTA if promise is None else float(promise["delta"])
        risk = (1 - CONFIDENCE) / len(tries)
        bounds = [epsilon_lower(one, delta, risk) for one in tries]
        best = tries[int(np.argmax(bounds))]
        found = {
            "canaries": len(scores),
            "planted": int(planted.sum()),
            "guesses": best.made,
            "right": best.right,
            "epsilon_lower": max(bounds),
            "delta": delta,
            "confidence": CONFIDENCE,
        }
        if promise is None:
            return found
        unit = str(promise["unit"])
        changes = 2 if unit == "client" else 2 * canaries.settings.repeats
        group = grouped(float(promise["epsilon"]), delta, changes)
        p_value = min(1.0, len(tries) * min(p_value_of(one, *group) for one in tries))
        return found | {
            "promised": float(promise["epsilon"]),
            "unit": unit,
            "changes": changes,
            "p_value": p_value,
            "refuted": p_value < 1 - CONFIDENCE,
        }


@dataclass(frozen=True)
class Guesses:
    """Guesses which canaries were planted: of ``canaries``, ``made`` so many, of which so many were ``right``."""

    canaries: int
    made: int
    right: int


def guesses(scores: np.ndarray, planted: np.ndarray) -> list[Guesses]:
    """One for each of the `SHARES` that leaves at least one guess at each end.

    Args:
        scores: ``[N]``; higher means more probably planted.
        planted: bool ``[N]``.
    """
    ordered = planted[np.argsort(-scores, kind="stable")]
    each = sorted({int(share * len(scores) / 2) for share in SHARES} - {0})
    return [Guesses(len(scores), 2 * k, int(ordered[:k].sum() + (~ordered[-k:]).sum())) for k in each]


def p_value_of(guessed: Guesses, epsilon: float, delta: float) -> float:
    """Largest probability of so many right guesses under (ε, δ)-DP for one coin; the theorem above."""
    r, v = guessed.made, guessed.right
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(v - 1, r, chance))
    if not delta or not v:
        return tail
    lower = np.arange(1, v + 1)
    between = binom.sf(v - lower - 1, r, chance) - tail
    slack = float((between / lower).max())
    return min(1.0, tail + 2 * guessed.canaries * delta * slack)


def epsilon_lower(guessed: Guesses, delta: float, risk: float) -> float:
    """The largest ε whose `p_value_of` is at most ``risk``, 0 where there is none."""
    if p_value_of(guessed, 0.0, delta) >= risk:
        return 0.0
    if p_value_of(guessed, HIGHEST, delta) < risk:
        return HIGHEST
    return float(brentq(lambda epsilon: p_value_of(guessed, epsilon, delta) - risk, 0.0, HIGHEST, xtol=1e-6))


def grouped(epsilon: float, delta: float, changes: int) -> tuple[float, float]:
    """ε and δ for several changes, of a promise for one: kε, and δ·(e^{kε} − 1)/(e^ε − 1), at most 1."""
    if delta <= 0 or epsilon <= 0:
        return changes * epsilon, min(1.0, changes * delta)
    exponent = math.log(delta) + (changes - 1) * epsilon + math.log1p(-math.exp(-changes * epsilon))
    return changes * epsilon, math.exp(min(0.0, exponent - math.log1p(-math.exp(-epsilon))))
