"""Public pairs of an image and its caption, for a protocol whose clients say how they embed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.data.examples import Examples
from fedfm.data.image_text import CAPTIONS
from fedfm.data.settings import DataSettings, PublicSettings
from fedfm.models.processors import Processor
from fedfm.tasks.base import Task
from fedfm.tasks.public import chosen_places


@dataclass(frozen=True)
class PublicPairs:
    """Encoded public pairs; of several captions of an image, the first.

    Attributes:
        examples: as a task on pairs encodes them.
        indices: those that ``public.limit`` selects, ascending.
        digest: of the content of the source.
    """

    examples: Examples
    indices: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.indices)

    def size_bytes(self, examples: int) -> int:
        """Bytes of that many pairs in a message, on average: their pixels, 4 for each token and 8 for each text."""
        few = self.take(np.arange(min(len(self), 64)))
        one = sum(np.size(row["pixel_values"]) + 4 * len(row[CAPTIONS][0]) + 8 for row in few) / len(few)
        return round(one * examples)

    def take(self, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Pairs at positions among those selected, as the task's collator reads them."""
        rows = self.examples.take(self.indices[np.asarray(positions)])
        return [{**row, CAPTIONS: row[CAPTIONS][:1]} for row in rows]


def read_public_pairs(
    settings: PublicSettings, task: Task, data: DataSettings, processor: Processor, *, seed: int, allow_network: bool
) -> PublicPairs:
    """Reads and encodes public pairs.

    Args:
        settings: the recipe's ``public``, which names the columns.
        task: on pairs.
        data: the recipe's, for what ``public`` does not say.
        processor: of both towers.
        seed: the recipe's; the selection of ``limit`` derives from it.
        allow_network: whether a hub data set may be downloaded.

    Raises:
        RecipeError, DataError: as `Task.read` and `Task.encode`.
    """
    own = {"image": settings.image, "text": [settings.text], "client": None, "csv": settings.csv}
    length = {"max_length": settings.max_length or data.max_length}
    named = data.model_copy(update={**own, **length})
    source = task.read(settings.data, "train", named, where="public.data", allow_network=allow_network)
    examples = task.encode(source, named, processor, None)
    return PublicPairs(examples, chosen_places(settings, len(examples), seed), source.digest)
