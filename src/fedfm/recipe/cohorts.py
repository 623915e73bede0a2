"""Clients of a round: how many there are, and whether they are enough for the recipe's rule."""

from __future__ import annotations

import math
from collections.abc import Collection
from fnmatch import fnmatchcase

from fedfm.errors import RecipeError
from fedfm.recipe.keys import RecipeKeys


def check_cohort(recipe: RecipeKeys, clients: int) -> int:
    """Clients a round, when ``clients`` are there.

    Raises:
        RecipeError: they are more than are there, or fewer than the recipe needs.
    """
    size = recipe.federation.check_cohort(clients)
    if reason := unfit_updates(recipe, clients):
        raise RecipeError(reason, where="aggregate.rule")
    if reason := too_few_summed(recipe, clients):
        raise RecipeError(reason, where="secure.min_clients")
    if reason := too_many_scored(recipe, clients):
        raise RecipeError(reason, where="contribution.kind")
    return size


def least_clients(recipe: RecipeKeys, clients: int) -> int:
    """Clients without which no round succeeds, when ``clients`` are there."""
    federation, cohort = recipe.federation, recipe.federation.expected_cohort(clients)
    combined = recipe.aggregate.least if recipe.protocol.folds(round(cohort)) else 0
    least = (federation.min_clients or 0, combined, recipe.secure.least)
    return max(1, math.ceil(federation.quorum * cohort), *least)


def check_presence(recipe: RecipeKeys, clients: Collection[str]) -> None:
    """Refuses patterns that no client matches, and rounds in which too few clients are there.

    Args:
        recipe: sound key by key.
        clients: ids of all clients.

    Raises:
        RecipeError: at ``federation.presence``.
    """
    if reason := unfit_presence(recipe, clients):
        raise RecipeError(reason, where="federation.presence")


def unfit_presence(recipe: RecipeKeys, clients: Collection[str]) -> str | None:
    """Why `federation.presence` does not fit the clients; None where it does.

    Arguments are those of `check_presence`.
    """
    federation = recipe.federation
    if not federation.presence:
        return None
    for pattern in federation.presence:
        if not any(fnmatchcase(client, pattern) for client in clients):
            return (
                f"no id of the {len(clients)} clients (federation.clients) matches {pattern!r}; `fedfm data` lists them"
            )
    least = max(federation.min_clients or 1, recipe.aggregate.least)
    for number in federation.turning_points():
        there = sum(federation.is_there(client, number) for client in clients)
        if there < least:
            few = "nobody is there" if not there else f"only {there} clients are there, and a round needs {least},"
            return f"{few} in round {number}: let more of the {len(clients)} clients (federation.clients) be there"
    return None


def unfit_updates(recipe: RecipeKeys, clients: int | None) -> str | None:
    """Why no step can have the updates that the rule needs, or why one may have too many; None where neither is so.

    Args:
        recipe: sound key by key.
        clients: of the federation; None: not known yet.
    """
    found = _cohort(recipe, clients)
    if found is None:
        return None
    cohort, key = found
    rule, folded = recipe.aggregate.under(recipe.federation.sampling), recipe.protocol.folds(cohort)
    if folded is None:
        return None
    most, limit = folded
    limit = key if limit == "federation.per_round" else limit
    if rule.most is not None and most > rule.most:
        return (
            f"`{rule.rule}` can combine {rule.most} updates at most, and a step may have {most} ({limit}): lower that, "
            "or choose another rule"
        )
    if most >= rule.least:
        return None
    return (
        f"`{rule.rule}` needs {rule.least} updates for a step, which has {most} at most ({limit}): raise that, or "
        "choose another rule"
    )


def too_many_scored(recipe: RecipeKeys, clients: int | None) -> str | None:
    """Why a round can have more clients than `contribution` can score; None where it cannot.

    Arguments are those of `unfit_updates`.
    """
    valuation, found = recipe.contribution, _cohort(recipe, clients)
    if found is None or valuation.most is None or found[0] <= valuation.most:
        return None
    return (
        f"`{valuation.kind}` scores {valuation.most} clients a round at most, and a round can have {found[0]} "
        f"({found[1]}): lower that, or choose another kind"
    )


def too_few_summed(recipe: RecipeKeys, clients: int | None) -> str | None:
    """Why no round can have the clients whose updates the recipe's `secure` sums at least; None where one can.

    Arguments are those of `too_few_updates`.
    """
    found = _cohort(recipe, clients)
    if found is None or found[0] >= recipe.secure.least:
        return None
    return f"the sum of {recipe.secure.least} clients' updates needs as many, and a round has {found[0]} ({found[1]})"


def _cohort(recipe: RecipeKeys, clients: int | None) -> tuple[int, str] | None:
    """The most clients of a round, and the key that says so; None: not known yet."""
    federation = recipe.federation
    everyone = federation.sampling == "poisson" or recipe.protocol.asks_everyone
    if isinstance(federation.per_round, int) and not everyone:
        return federation.per_round, "federation.per_round"
    if clients is None:
        return None
    if everyone:
        return clients, "federation.clients"
    key = "federation.clients" if federation.per_round is None else "federation.per_round"
    return federation.cohort_size(clients), key
