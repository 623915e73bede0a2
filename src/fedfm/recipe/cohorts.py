"""Clients of a round: how many there are, and whether they are enough for the recipe's rule."""

from __future__ import annotations

import math

from fedfm.errors import RecipeError
from fedfm.recipe.keys import RecipeKeys


def check_cohort(recipe: RecipeKeys, clients: int) -> int:
    """Clients a round, when ``clients`` are there.

    Raises:
        RecipeError: they are more than are there, or fewer than the recipe needs.
    """
    size = recipe.federation.check_cohort(clients)
    if reason := too_few_updates(recipe, clients):
        raise RecipeError(reason, where="aggregate.rule")
    if reason := too_many_scored(recipe, clients):
        raise RecipeError(reason, where="contribution.kind")
    return size


def least_clients(recipe: RecipeKeys, clients: int) -> int:
    """Clients without which no round succeeds, when ``clients`` are there."""
    federation, cohort = recipe.federation, recipe.federation.expected_cohort(clients)
    combined = recipe.aggregate.least if recipe.protocol.folds(round(cohort)) else 0
    return max(1, math.ceil(federation.quorum * cohort), federation.min_clients or 0, combined)


def too_few_updates(recipe: RecipeKeys, clients: int | None) -> str | None:
    """Why no step can have the updates that the rule needs; None where one can.

    Args:
        recipe: sound key by key.
        clients: of the federation; None: not known yet.
    """
    cohort, key = _largest(recipe, clients)
    if cohort is None:
        return None
    rule, folded = recipe.aggregate.under(recipe.federation.sampling), recipe.protocol.folds(cohort)
    if folded is None or folded[0] >= rule.least:
        return None
    most, limit = folded
    limit = key if limit == "federation.per_round" else limit
    return (
        f"`{rule.rule}` needs {rule.least} updates for a step, which has {most} at most ({limit}): raise that, or "
        "choose another rule"
    )


def too_many_scored(recipe: RecipeKeys, clients: int | None) -> str | None:
    """Why a round can have more clients than `contribution` can score; None where it cannot.

    Args:
        recipe: sound key by key.
        clients: of the federation; None: not known yet.
    """
    valuation, (cohort, key) = recipe.contribution, _largest(recipe, clients)
    if cohort is None or valuation.most is None or cohort <= valuation.most:
        return None
    return (
        f"`{valuation.kind}` scores {valuation.most} clients a round at most, and a round can have {cohort} ({key}): "
        "lower that, or choose another kind"
    )


def _largest(recipe: RecipeKeys, clients: int | None) -> tuple[int | None, str]:
    """The most clients that a round can have, None where that is not known yet; and the key that says so."""
    federation, key = recipe.federation, "federation.clients"
    everyone = federation.sampling == "poisson" or recipe.protocol.asks_everyone
    if isinstance(federation.per_round, int) and not everyone:
        return federation.per_round, "federation.per_round"
    if clients is None:
        return None, key
    named = federation.per_round is not None and not everyone
    return (clients if everyone else federation.cohort_size(clients)), "federation.per_round" if named else key
