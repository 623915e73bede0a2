"""Advice: the learning rate is far from those that are usual for the tunable."""

from __future__ import annotations

from fedfm.server.advice.base import Advice, PlanFacts

FAR = 5
"""Factor outside of the usual range from which a learning rate is reported."""


def learning_rate(facts: PlanFacts) -> Advice | None:
    """Where the tunable declares the usual rates of AdamW (`TuneSettings.usual_lr`)."""
    local, usual = facts.recipe.local, facts.recipe.tune.usual_lr
    if usual is None or local.optimizer != "adamw":
        return None
    low, high = usual
    if low / FAR <= local.learning_rate <= high * FAR:
        return None
    word = "small" if local.learning_rate < low else "large"
    return Advice(
        "local.learning_rate",
        f"{local.learning_rate:g} is {word} for {facts.recipe.tune.kind} with adamw; published runs use {low:g} to "
        f"{high:g}",
    )
