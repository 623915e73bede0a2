"""Advice: where it is known when clients take part, noise of one round can be taken back in later ones."""

from __future__ import annotations

from fedfm.privacy.correlated import best_bands, error
from fedfm.server.advice.base import Advice, PlanFacts

WORTH = 0.9
"""Error of correlated noise over that of independent noise, above which nothing is said."""


def independent_noise(facts: PlanFacts) -> Advice | None:
    """Where clients take turns and each round's noise stays in the model; arXiv:2505.12128."""
    promise = facts.experiment.promise
    if promise is None or promise.planned is None or promise.bands > 1:
        return None
    attendance = facts.recipe.federation.attendance(len(facts.experiment.data.clients))
    rounds, separation = promise.planned, attendance.separation or 1
    bands = best_bands(rounds, separation)
    share = error(bands, rounds, separation) / error(1, rounds, separation)
    if share > WORTH:
        return None
    return Advice(
        "privacy.mechanism",
        f"each client takes part in every {separation}th round at most, so that later rounds can take back noise of "
        f"earlier ones: with `bisr`, the noise in the model is {share:.0%} of that of independent noise at the same ε",
    )
