"""The one place in which examples of simulated clients are changed before they train on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedfm.data.examples import Examples
from fedfm.hosts.conflicting_labels import conflicting
from fedfm.hosts.held_examples import HeldExamples
from fedfm.hosts.planted_data import planted
from fedfm.hosts.poisoned_data import poisoned
from fedfm.hosts.unpaired_data import unpaired
from fedfm.recipe import Recipe

CHANGES: tuple[Callable[[Recipe, HeldExamples], Examples], ...] = (conflicting, poisoned, planted, unpaired)
"""What may change them, in order: groups of clients rename classes; attackers poison their own; canaries take places of
examples; clients may lack the images or the texts of their pairs."""


def changed(recipe: Recipe, held: HeldExamples) -> Examples:
    """The training examples as clients train on them.

    Args:
        recipe: of the run.
        held: as read.

    Raises:
        RecipeError: as `conflicting`, `poisoned` and `planted`.
    """
    for change in CHANGES:
        held = replace(held, examples=change(recipe, held))
    return held.examples
