"""Simulated clients that have only the images, or only the texts, of their pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedfm.data.examples import Examples
from fedfm.hosts.held_examples import HeldExamples
from fedfm.recipe import Recipe
from fedfm.tasks.image_text import MODALITY
from fedfm.views import Modalities

NUMBERS = {"both": 0, "image": 1, "text": 2}
"""As `MODALITY` says."""


def unpaired(recipe: Recipe, held: HeldExamples) -> Examples:
    """The examples, each marked with the kinds that its client has; as they are where all clients have both."""
    view = Modalities.of(recipe)
    if view is None:
        return held.examples
    table = held.examples.table
    marks = np.zeros(len(table), dtype=np.int32)
    for client, indices in held.clients.items():
        marks[indices] = NUMBERS[view.kind(client)]
    marked = table.with_format(None).add_column(MODALITY, marks.tolist())
    return replace(held.examples, table=marked.with_format("numpy", dtype=np.int32))
