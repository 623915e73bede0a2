"""Advice: the tunable needs a larger model than this one."""

from __future__ import annotations

from fedfm.records import units
from fedfm.server.advice.base import Advice, PlanFacts


def small_model(facts: PlanFacts) -> Advice | None:
    """Where the tunable declares the size of model that it needs (`TuneSettings.least_parameters`)."""
    tune, parameters = facts.recipe.tune, facts.experiment.backbone_parameters
    if parameters >= tune.least_parameters:
        return None
    least = units.number(tune.least_parameters)
    return Advice(
        "tune.kind",
        f"{tune.kind} is clearly worse than other methods on models below about {least} parameters "
        f"({tune.least_source}), and this one has {units.number(parameters)}; use lora",
    )
