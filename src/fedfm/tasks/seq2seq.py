"""Instruction tuning of encoder-decoders: the encoder reads the question, the decoder learns the response.

Chung et al., Scaling Instruction-Finetuned Language Models, arXiv:2210.11416 (Flan-T5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig
from transformers.models.bart.modeling_bart import shift_tokens_right

from fedfm.data.conversations.encoding import RESPONSE, encode_responses, history
from fedfm.data.conversations.questions import Question
from fedfm.data.examples import IGNORED, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.tasks.base import TARGETS, Batch, Collate
from fedfm.tasks.conversational import Conversational
from fedfm.tasks.language_modeling import LanguageModeling
from fedfm.tasks.shown import ShownExample, shown_tokens


class Seq2Seq(Conversational, LanguageModeling):
    """Predicts each token of a response from the encoded question and the response's tokens before it."""

    kind: Literal["seq2seq"] = "seq2seq"
    """The responses of conversations, by an encoder-decoder."""
    auto_class = AutoModelForSeq2SeqLM
    peft_type = "SEQ_2_SEQ_LM"

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """One example for each response."""
        return encode_responses(source, data, processor)

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads both sides, each to its longest."""

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            texts = [{name: row[name] for name in row if name != RESPONSE} for row in rows]
            batch: Batch = dict(processor.pad(texts, return_tensors="pt"))
            responses = [torch.tensor(row[RESPONSE]) for row in rows]
            batch["labels"] = pad_sequence(responses, batch_first=True, padding_value=IGNORED)
            return batch

        return collate

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits ``[B, T', V]`` for a decoder that reads the response, shifted right by one token.

        A batch without responses, as in a comparison of two models, has the encoder's text in their place.
        """
        config: PretrainedConfig = model.config  # type: ignore[assignment]
        inputs = {name: tensor for name, tensor in batch.items() if name not in TARGETS}
        response = batch.get("labels", batch["input_ids"])
        shifted = shift_tokens_right(response, config.pad_token_id, config.decoder_start_token_id)
        logits: Tensor = model(**inputs, decoder_input_ids=shifted).logits
        return logits

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """The encoder's tokens, and the decoder's, all of which are learnt."""
        asked, given = list(row["input_ids"]), list(row[RESPONSE])
        return ShownExample(
            tokens=shown_tokens(processor, asked, [False] * len(asked)),
            targets=shown_tokens(processor, given, [True] * len(given)),
        )

    def prompt(self, question: Question, processor: Any, data: DataSettings) -> list[int]:
        """What the encoder reads, truncated to ``data.max_length`` tokens as in training."""
        reader = plain_tokenizer(processor)
        ids: list[int] = reader(history(question.turns), truncation=True, max_length=data.max_length)["input_ids"]
        return ids

    def targets(self, batch: Batch) -> Tensor:
        """The tokens of the response."""
        return batch["labels"]

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """Position t predicts token t, since the decoder's input is shifted."""
        return logits
