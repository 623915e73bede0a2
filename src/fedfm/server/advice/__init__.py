"""Advice of ``fedfm check``: warnings about recipes that can be run but may disappoint, each one file.

What a method knows of itself it declares in its own class, such as the learning rates that are usual for it; the
functions here compare that with the data, the model and the link.
"""

from __future__ import annotations

from collections.abc import Callable

from fedfm.server.advice.adaptivity import adaptivity
from fedfm.server.advice.base import Advice, PlanFacts
from fedfm.server.advice.factors import factors
from fedfm.server.advice.independent_noise import independent_noise
from fedfm.server.advice.learning_rate import learning_rate
from fedfm.server.advice.noisy_factors import noisy_factors
from fedfm.server.advice.rank import rank
from fedfm.server.advice.small_model import small_model
from fedfm.server.advice.target_scale import target_scale
from fedfm.server.advice.updates import updates

ADVICE: dict[str, Callable[[PlanFacts], Advice | None]] = {
    "small-model": small_model,
    "learning-rate": learning_rate,
    "adaptivity": adaptivity,
    "target-scale": target_scale,
    "rank": rank,
    "factors": factors,
    "updates": updates,
    "noisy-factors": noisy_factors,
    "independent-noise": independent_noise,
}
"""Name → function; each returns its warning, or None."""


def advise(facts: PlanFacts) -> list[Advice]:
    """All warnings about a run."""
    return [advice for function in ADVICE.values() if (advice := function(facts)) is not None]


__all__ = ["ADVICE", "Advice", "PlanFacts", "advise"]
