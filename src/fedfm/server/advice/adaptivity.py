"""Advice: an adaptive server whose τ is so large that it does not adapt."""

from __future__ import annotations

from fedfm.server.advice.base import Advice, PlanFacts

FAR = 10
"""τ over the root mean square of an update from which on √v + τ is nearly τ for every value."""


def adaptivity(facts: PlanFacts) -> Advice | None:
    """Where the algorithm has a τ (`Algorithm.adaptivity`) far above the size that updates can have."""
    tau, size = facts.recipe.algorithm.adaptivity, facts.update_size
    if tau is None or size is None or tau <= FAR * size:
        return None
    measured = "measured" if facts.timing is not None else "the learning rate times the steps of a round"
    return Advice(
        "algorithm.tau",
        f"τ is {tau:g}, but updates have a root mean square of at most {size:.1g} ({measured}): the server's step is "
        f"then a mean times server_lr/τ and adapts to nothing; set tau near {size:.0e}",
    )
