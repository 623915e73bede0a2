"""Tasks on texts whose examples have several numbers to predict: labels that are true or not, or measurements."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.text import encode_text
from fedfm.tasks.base import Batch, Collate, Task
from fedfm.tasks.shown import ShownExample, shown_tokens


class TextTargets(Task):
    """What tasks have in common that predict numbers of a text or a pair of texts."""

    modality = "text"
    peft_type = "SEQ_CLS"
    labelled = True
    text_columns = (1, 2)

    @abstractmethod
    def targets(self, source: Source, data: DataSettings, labels: LabelMap) -> np.ndarray:
        """The numbers of each example, float32 ``[N, T]``.

        Raises:
            RecipeError, DataError: the column has other values.
        """

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Token ids, truncated to ``data.max_length`` tokens, and the numbers of each example."""
        targets = None if labels is None else self.targets(source, data, labels)
        examples = encode_text(source, data.text, processor, data.max_length, client=data.client)
        return replace(examples, targets=targets)

    @abstractmethod
    def written(self, targets: Sequence[float], names: Sequence[str]) -> str:
        """What is to be predicted of one example, as text."""

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """Tokens, and what is learnt."""
        ids = list(row["input_ids"])
        label = self.written(row["labels"], names) if names is not None and "labels" in row else None
        return ShownExample(tokens=shown_tokens(processor, ids, [False] * len(ids)), label=label)

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads to the longest example of the batch."""
        pad = DataCollatorWithPadding(processor)
        return lambda rows: pad([dict(row) for row in rows])

    def predictions(self, batch: Batch) -> Tensor:
        """As many as an example has numbers."""
        labels = batch["labels"]
        return torch.full((len(labels),), labels.shape[1], device=labels.device)
