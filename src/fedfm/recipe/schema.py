"""A recipe: everything that decides a run."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ModelWrapValidatorHandler, model_validator

from fedfm.recipe.checks import checked
from fedfm.recipe.conflicts import conflicts
from fedfm.recipe.keys import RecipeKeys


class Recipe(RecipeKeys):
    """All settings of a run; ``model``, ``task``, ``data`` and a name are enough.

    However it is made, every problem is found at once.

    Raises:
        RecipeError: something is wrong with it: unknown keys, wrong values, choices that exclude each other.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """One way in: whatever makes a Recipe gets all of its problems as one RecipeError."""
        return checked(cls, values, handler, conflicts)
