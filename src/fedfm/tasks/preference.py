"""Preference tuning of decoders by DPO: the chosen response becomes more likely than the rejected one.

With a prompt x, responses y_w (chosen) and y_l (rejected), the trained model π and the reference π_ref,

    L = -log σ( β h ),   h = log π(y_w|x) - log π(y_l|x) - ( log π_ref(y_w|x) - log π_ref(y_l|x) ).

π_ref is the model before round 1, in every round: the backbone with the tunable as initialised, which for LoRA is the
backbone. Its part of h is one number a pair, which does not change; `fedfm.clients.references` computes it once, so no
second model is in memory, and every tunable will do.

Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a Reward Model, arXiv:2305.18290,
eq. (7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from fedfm.data.conversations.packing import POSITIONS
from fedfm.data.conversations.pairs import encode_pairs
from fedfm.data.conversations.preferences import PAIR, parsed_pair, preference_columns, with_preferences
from fedfm.data.conversations.questions import Question, questions_of
from fedfm.data.examples import IGNORED, REFERENCE, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Batch, Collate, Measured, client_columns
from fedfm.tasks.instruction import Instruct
from fedfm.tasks.isolation import refuse_leaks

TIE = 1e-4
"""Size of h, in nats, below which neither response counts as preferred: sums over tokens are rounded."""


class Preference(Instruct):
    """Learns which of two responses is preferred."""

    kind: Literal["preference"] = "preference"  # type: ignore[assignment]
    """Which of two responses is preferred, by a decoder (DPO)."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """β: the larger it is, the less the model moves away from the initial one for the same loss."""
    own_keys = frozenset({"preference", "template"})
    metrics = MappingProxyType({"preference_accuracy": True, "margin": True})
    compares = True

    def inputs(self, data: DataSettings) -> list[str]:
        """The column of pairs, which `prepare` adds."""
        return [PAIR]

    def columns(self, data: DataSettings) -> list[RequestedColumn]:
        """The columns in which pairs may be."""
        return [*preference_columns(data.preference), *client_columns(data)]

    def questions(self, source: Source, data: DataSettings) -> list[Question]:
        """The prompts, with the chosen responses; where the source has no pairs, as for `instruct`.

        Raises:
            RecipeError, DataError: as `with_preferences` and `read_questions`.
        """
        if data.preference.chosen not in source.table.column_names:
            return super().questions(source, data)
        pairs = with_preferences(source, data.preference).table[PAIR]
        return [questions_of(parsed_pair(text)[0]) for text in pairs]

    def prepare(self, source: Source, data: DataSettings) -> Source:
        """A source with the column of pairs.

        Raises:
            RecipeError, DataError: as `with_preferences`.
        """
        return with_preferences(source, data.preference)

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """One sequence for each pair; see `encode_pairs`."""
        return encode_pairs(source, data, processor)

    def collate(self, processor: Any, seed: int) -> Collate:
        """As for packed conversations, with the reference's part of h where it is known."""
        texts = super().collate(processor, seed)

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            batch = texts([{name: row[name] for name in row if name != REFERENCE} for row in rows])
            if REFERENCE in rows[0]:
                batch[REFERENCE] = torch.tensor([row[REFERENCE] for row in rows], dtype=torch.float32)
            return batch

        return collate

    def check_model(self, tunable: Tunable, processor: Any, name: str, data: DataSettings) -> None:
        """Refuses a model that looks ahead, or in which the two conversations of a pair attend to each other.

        Raises:
            RecipeError: as `refuse_look_ahead` and `refuse_leaks`.
        """
        super().check_model(tunable, processor, name, data)
        refuse_leaks(self, tunable, processor, name, where="task.kind", remedy="choose another model, or lora")

    def predictions(self, batch: Batch) -> Tensor:
        """One for each pair."""
        return torch.ones(len(batch["labels"]), dtype=torch.int64, device=batch["labels"].device)

    def log_ratios(self, outputs: Tensor, batch: Batch) -> Tensor:
        """log π(y_w|x) - log π(y_l|x) of each pair, ``[B]``."""
        logits, labels = self.predicting(outputs, batch), self.targets(batch)
        tokens = -cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        conversation = (batch[POSITIONS] == 0).cumsum(1)[:, 1:]  # 1: chosen, 2: rejected, above: padding
        sign = (conversation == 1).to(tokens.dtype) - (conversation == 2).to(tokens.dtype)
        return (tokens * sign).sum(1)

    def compared(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The reference's part of h: `log_ratios`."""
        return self.log_ratios(outputs, batch)

    def losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of each pair, and one prediction for each."""
        change = self.log_ratios(outputs, batch) - batch[REFERENCE]
        return -logsigmoid(self.beta * change), self.predictions(batch)

    def measure(self, outputs: Tensor, batch: Batch) -> Measured:
        """h of each pair."""
        return {"change": (self.log_ratios(outputs, batch) - batch[REFERENCE]).float().cpu().numpy()}

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Share of pairs with h > 0, ties counted half; and the mean margin of rewards, β h, in nats."""
        change = measured["change"]
        right = np.where(np.abs(change) <= TIE, 0.5, change > 0)
        return {"preference_accuracy": float(right.mean()), "margin": self.beta * float(change.mean())}
