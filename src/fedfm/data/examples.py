"""Encoded examples, the input of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

IGNORED = -100
"""Label of a position that is not predicted."""

REFERENCE = "reference"
"""Key of `Examples.reference` in a row, and of it in a batch, float32 [B]."""


@dataclass(frozen=True, eq=False)
class Examples:
    """N encoded examples. Their features are memory-mapped and use no memory of the process.

    Attributes:
        table: the model's inputs by name (``input_ids``, …; or ``pixel_values``, uint8 [C, H, W]).
        lengths: int32 [N], tokens of each example; ones for images.
        labels: int64 [N] classes, or None.
        clients: str objects [N], the client of each example, or None.
        cut: int32 [N], tokens that truncation has cut off each example; None where nothing is truncated.
        notes: sentences about examples that were truncated or left out.
        targets: float32 [N, T], numbers of each example that the model is to predict, or None.
        reference: float32 [N], what the loss compares the model's value of each example with, set by
            `fedfm.clients.references`; NaN where it was not computed, None for tasks that compare with nothing.
    """

    table: Dataset
    lengths: np.ndarray
    labels: np.ndarray | None = None
    clients: np.ndarray | None = None
    cut: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    targets: np.ndarray | None = None
    reference: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The examples at ``indices``, in that order, as the collators of transformers expect them."""
        chosen = np.asarray(indices, dtype=np.int64)
        columns = self.table[chosen]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        answers = self.labels if self.targets is None else self.targets
        if answers is not None:
            for row, answer in zip(rows, answers[chosen].tolist(), strict=True):
                row["labels"] = answer
        if self.reference is not None:
            for row, value in zip(rows, self.reference[chosen].tolist(), strict=True):
                row[REFERENCE] = value
        return rows
