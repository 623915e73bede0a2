"""Advice: noise in both factors of a low-rank product is multiplied."""

from __future__ import annotations

from fedfm.aggregation.lora.pairs import pairs
from fedfm.capabilities import LOW_RANK_FACTORS
from fedfm.server.advice.base import Advice, PlanFacts


def noisy_factors(facts: PlanFacts) -> Advice | None:
    """Where updates get noise and clients train both factors of a pair in one round.

    Sun et al., Improving LoRA in Privacy-preserving Federated Learning, arXiv:2403.12313, section 3.
    """
    experiment, recipe = facts.experiment, facts.recipe
    spec, rule = experiment.contract.spec, recipe.aggregate
    private = experiment.promise is not None or experiment.example_promise is not None
    if not private or LOW_RANK_FACTORS not in recipe.tune.gives:
        return None
    trained = rule.trains(spec, 1) - rule.fixed(spec)
    if not any({a, b} <= trained for a, b in pairs(spec).items()):
        return None
    return Advice(
        "aggregate.rule",
        f"privacy.kind: {recipe.privacy.kind} adds noise to both factors of B·A, and their product multiplies it: "
        "`ffa` keeps A as drawn and trains B alone",
    )
