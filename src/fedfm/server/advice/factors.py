"""Advice: a rule that compares the factors of low-rank updates one by one."""

from __future__ import annotations

from fedfm.capabilities import LOW_RANK_PRODUCT
from fedfm.server.advice.base import Advice, PlanFacts


def factors(facts: PlanFacts) -> Advice | None:
    """Where a rule could compare products (`aggregate.compare`) and compares factors."""
    rule, tune = facts.recipe.aggregate, facts.recipe.tune
    if getattr(rule, "compare", None) != "updates" or LOW_RANK_PRODUCT not in tune.gives:
        return None
    if "products" not in str(type(rule).model_fields["compare"].annotation):
        return None
    return Advice(
        "aggregate.compare",
        "distances of LoRA's factors say little of what updates do to the model: a large change of A may do nothing, "
        "and (B·c, A/c) is far from (B, A) with the same product; set aggregate.compare=products",
    )
