"""Groups of simulated clients that name the classes differently, so that no one model is right for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from fedfm.data.examples import Examples
from fedfm.errors import RecipeError
from fedfm.hosts.held_examples import HeldExamples
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe


def conflicting(recipe: Recipe, held: HeldExamples) -> Examples:
    """The training examples with class y of a client in group g renamed (y + g) mod C; the same with one group.

    What a client holds out is renamed as what it trains on. Data of the server is not changed: it has the classes of
    group 0.

    Args:
        recipe: of the run.
        held: all training examples.

    Raises:
        RecipeError: at ``federation.label_groups``: there are no classes, or fewer than groups, or too few clients.
    """
    examples, count = held.examples, recipe.federation.label_groups
    if count == 1:
        return examples
    where = "federation.label_groups"
    if held.labels is None or examples.labels is None:
        raise RecipeError("renames classes, and the examples of this task do not have one class each", where=where)
    classes = len(held.labels.names)
    if count > classes:
        raise RecipeError(f"{count} groups cannot all name {classes} classes differently", where=where)
    if count > len(held.clients):
        raise RecipeError(f"{count} groups are more than the {len(held.clients)} clients", where=where)
    labels = examples.labels.copy()
    for client, group in groups_of(held.clients, count, recipe.seed).items():
        for indices in (held.clients[client], held.holdout.get(client)):
            if indices is not None:
                labels[indices] = (labels[indices] + group) % classes
    return replace(examples, labels=labels)


def groups_of(clients: Iterable[str], count: int, seed: int) -> Mapping[str, int]:
    """Client id → its group, 0 to ``count`` − 1; the groups differ by at most one client.

    Args:
        clients: all client ids.
        count: of groups.
        seed: the recipe's.
    """
    drawn = numpy_generator(seed, "label groups").permutation(sorted(clients))
    return {str(client): place % count for place, client in enumerate(np.asarray(drawn))}
