"""What a score of neurons may look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block
from fedfm.tasks.base import Batch


@dataclass(frozen=True)
class Scoring:
    """The case of one proxy.

    Attributes:
        backbone: without a tunable; does not change.
        blocks: of the backbone, in the order of a pass; their neurons are scored.
        counts: how many neurons each keeps, by block path.
        batches: public data; empty for scores of weights alone.
        seed: the recipe's seed.
    """

    backbone: Backbone
    blocks: Sequence[Block]
    counts: Mapping[str, int]
    batches: Sequence[Batch]
    seed: int


Score = Callable[[Scoring], dict[str, Tensor]]
"""Scores of all neurons of the blocks, float64 [m] on the CPU, by block path; the highest are kept."""
