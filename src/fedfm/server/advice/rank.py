"""Advice: a rank above what the examples of a client can fill."""

from __future__ import annotations

from fedfm.server.advice.base import Advice, PlanFacts


def rank(facts: PlanFacts) -> Advice | None:
    """Where the rank of low-rank updates is above the number of examples of the median client.

    A gradient step on an example that is classified at one token changes a matrix by little more than rank 1.
    """
    r = facts.recipe.tune.rank
    if r is None or not facts.examples or r <= facts.examples:
        return None
    return Advice(
        "tune.r",
        f"rank {r} is more than the {facts.examples} examples of the median client can fill, and costs bytes in every "
        f"message; a rank of at most {facts.examples} is enough",
    )
