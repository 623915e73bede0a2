"""What a recipe asks of a site, apart from local training: its protocol, its stages and its kinds of work.

Recipes of this version may not have the keys yet; what they leave out is the `star` protocol without stages.
"""

from __future__ import annotations

from typing import Any

from fedfm.recipe import Recipe

TRAIN = "train"
"""The kind of work that every run has, and that a policy allows unless it says otherwise."""


def protocol_kind(recipe: Recipe) -> str:
    """Who asks whom for what in a round, as ``protocol.kind`` says it."""
    return str(getattr(_protocol(recipe), "kind", "star"))


def stage_kinds(recipe: Recipe) -> list[str]:
    """Kinds of the stages of the update path, in order, each once."""
    return list(dict.fromkeys(str(stage.kind) for stage in recipe.updates))


def work_kinds(recipe: Recipe) -> list[str]:
    """Kinds of work that the protocol asks clients for."""
    return list(getattr(_protocol(recipe), "works", (TRAIN,)))


def exchanges(recipe: Recipe) -> int:
    """Times that the protocol asks a client for the same kind of work in one round."""
    return int(getattr(_protocol(recipe), "exchanges", 1))


def _protocol(recipe: Recipe) -> Any:
    return getattr(recipe, "protocol", None)
