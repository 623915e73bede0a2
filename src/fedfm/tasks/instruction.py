"""Instruction tuning of decoders: cross-entropy on the tokens of responses only.

Ouyang et al., Training language models to follow instructions with human feedback, arXiv:2203.02155, §3 (supervised
fine-tuning): the model learns demonstrations. As is usual, the loss leaves out the tokens of questions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fedfm.data.conversations.encoding import LEARNED, encode_conversations
from fedfm.data.conversations.packing import POSITIONS
from fedfm.data.conversations.questions import Question
from fedfm.data.conversations.templates import Writer, template_of
from fedfm.data.examples import IGNORED, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.errors import DataError
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import TARGETS, Batch, Collate
from fedfm.tasks.conversational import Conversational
from fedfm.tasks.isolation import refuse_leaks
from fedfm.tasks.language_modeling import CausalLM


class Instruct(Conversational, CausalLM):
    """Predicts the tokens of responses, given all tokens before."""

    kind: Literal["instruct"] = "instruct"  # type: ignore[assignment]
    """The responses of conversations, by a decoder."""
    own_keys = frozenset({"conversation", "template", "pack"})

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """One sequence for each conversation, or for several with ``data.pack``."""
        return encode_conversations(source, data, processor)

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads; the labels are the learnt tokens. Rows that do not say what is learnt are learnt whole.

        Packed conversations have positions in place of an attention mask, as transformers expects it.
        """

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            texts = [{name: row[name] for name in row if name not in (LEARNED, POSITIONS)} for row in rows]
            batch: Batch = dict(processor.pad(texts, return_tensors="pt"))
            learned = _padded([row.get(LEARNED, [1] * len(row["input_ids"])) for row in rows])
            batch["labels"] = batch["input_ids"].masked_fill(learned == 0, IGNORED)
            if POSITIONS in rows[0]:
                del batch["attention_mask"]
                batch[POSITIONS] = _padded([row[POSITIONS] for row in rows])
                batch["labels"].masked_fill_(batch[POSITIONS] == 0, IGNORED)  # the conversation before predicts them
            return batch

        return collate

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits ``[B, T, V]``; without a cache, with which transformers does not look for packed conversations."""
        cache = {"use_cache": False} if POSITIONS in batch else {}
        logits: Tensor = model(**{name: batch[name] for name in batch if name not in TARGETS}, **cache).logits
        return logits

    def check_model(self, tunable: Tunable, processor: Any, name: str, data: DataSettings) -> None:
        """Refuses a model that looks ahead, and with ``data.pack`` one in which conversations attend to each other.

        Raises:
            RecipeError: as `refuse_look_ahead` and `refuse_leaks`.
        """
        super().check_model(tunable, processor, name, data)
        if data.pack:
            refuse_leaks(self, tunable, processor, name)

    def prompt(self, question: Question, processor: Any, data: DataSettings) -> list[int]:
        """The conversation by the run's template, up to where the answer begins.

        Raises:
            DataError: the template refuses it.
        """
        try:
            return Writer(processor, template_of(processor, data)).prompt(question.turns)
        except ValueError as error:
            raise DataError(f"the chat template {error}: {question.text[:60]!r}", where="data.template") from error

    def end(self, processor: Any, data: DataSettings) -> int | None:
        """The token with which the template ends a response."""
        return Writer(processor, template_of(processor, data)).end

    def delivered(self, processor: Any, data: DataSettings) -> Any:
        """The tokenizer with the chat template by which the model was tuned."""
        delivered = copy.deepcopy(processor)
        delivered.chat_template = template_of(processor, data)
        return delivered


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """``[B, T]``, padded with zeros on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
