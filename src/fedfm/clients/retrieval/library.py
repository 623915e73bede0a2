"""The texts that clients search: the passages of their own examples, those held out from training included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedfm.clients.retrieval.settings import AskSettings
from fedfm.data.columns import text_column
from fedfm.data.sources import Source


@dataclass(frozen=True, eq=False)
class Library:
    """Texts of all clients of a worker.

    Attributes:
        source: of the training examples, a row an example.
        column: of the passages.
        settings: how they are cut and what an answer holds.
        max_length: tokens of a question.
    """

    source: Source
    column: str
    settings: AskSettings
    max_length: int

    @cached_property
    def _passages(self) -> list[str]:
        return text_column(self.source, self.column, "data.text")

    def documents(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """The different passages of some rows, in the order of the rows."""
        return list(dict.fromkeys(self._passages[row] for row in rows))
