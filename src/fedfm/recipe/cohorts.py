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
    return size


def least_clients(recipe: RecipeKeys, clients: int) -> int:
    """Clients without which no round succeeds, when ``clients`` are there."""
    federation, cohort = recipe.federation, recipe.federation.expected_cohort(clients)
    combined = recipe.aggregate.least if recipe.protocol.folds(round(cohort)) else 0
    least = (federation.min_clients or 0, combined, recipe.secure.least)
    return max(1, math.ceil(federation.quorum * cohort), *least)


def too_few_updates(recipe: RecipeKeys, clients: int | None) -> str | None:
    """Why no step can have the updates that the rule needs; None where one can.

    Args:
        recipe: sound key by key.
        clients: of the federation; None: not known yet.
    """
    federation, key = recipe.federation, "federation.clients"
    everyone = federation.sampling == "poisson" or recipe.protocol.asks_everyone
    if isinstance(federation.per_round, int) and not everyone:
        cohort, key = federation.per_round, "federation.per_round"
    elif clients is None:
        return None
    else:
        cohort = clients if everyone else federation.cohort_size(clients)
        key = "federation.per_round" if federation.per_round is not None and not everyone else key
    rule, folded = recipe.aggregate.under(federation.sampling), recipe.protocol.folds(cohort)
    if recipe.secure.least > cohort:
        return (
            f"`secure.kind: {recipe.secure.kind}` sums the updates of {recipe.secure.least} clients at least "
            f"(secure.min_clients), and a round has {cohort} ({key}): raise that"
        )
    if folded is None or folded[0] >= rule.least:
        return None
    most, limit = folded
    limit = key if limit == "federation.per_round" else limit
    return (
        f"`{rule.rule}` needs {rule.least} updates for a step, which has {most} at most ({limit}): raise that, or "
        "choose another rule"
    )
