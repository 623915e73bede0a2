"""Canaries in the examples of simulated clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from fedfm.audit.canaries import Placement, Vocabulary, draw_canaries, place_canaries, with_canaries
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.hosts.held_examples import HeldExamples
from fedfm.models.processors import Processor
from fedfm.recipe import Recipe


def planted(recipe: Recipe, held: HeldExamples) -> Examples:
    """The training examples with the canaries whose coins say so; the same where the recipe has none.

    Raises:
        RecipeError: as `fedfm.audit.canaries.place_canaries`.
    """
    if not recipe.audit.canaries:
        return held.examples
    canaries, placement = canaries_of(recipe, held.examples, held.clients, held.labels, held.processor)
    return with_canaries(held.examples, canaries, placement)


def canaries_of(
    recipe: Recipe,
    like: Examples,
    clients: Mapping[str, np.ndarray],
    labels: LabelMap | None,
    processor: Processor,
) -> tuple[Examples, Placement]:
    """The canaries of a recipe, references included, and their places; the same at every call.

    Args:
        recipe: of the run.
        like: training examples, with canaries or without.
        clients: client id → indices of those that it trains on.
        labels: the classes.
        processor: the tokenizer.

    Raises:
        RecipeError: as `fedfm.audit.canaries.place_canaries`.
    """
    tokenizer = cast(PreTrainedTokenizerBase, processor)
    canaries = draw_canaries(
        recipe.audit,
        like,
        Vocabulary.of(len(tokenizer), tokenizer.all_special_ids),
        classes=None if labels is None else len(labels.names),
        max_length=recipe.data.max_length,
        seed=recipe.seed,
    )
    return canaries, place_canaries(recipe.audit, clients, recipe.seed)
