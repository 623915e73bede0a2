"""Masked and causal language modelling: cross-entropy per token; perplexity and token accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, DataCollatorForLanguageModeling

from fedfm.capabilities import LABELS, VIRTUAL_TOKENS
from fedfm.data.columns import text_column
from fedfm.data.conversations.questions import Question
from fedfm.data.documents import encode_documents
from fedfm.data.examples import IGNORED, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.plain_text import plain_tokenizer
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Batch, Collate, Measured, Task
from fedfm.tasks.causality import refuse_look_ahead
from fedfm.tasks.shown import ShownExample, shown_tokens


class LanguageModeling(Task):
    """What masked and causal language modelling share."""

    takes = {LABELS: "its examples have none"}
    modality = "text"
    labelled = False
    metrics = MappingProxyType({"perplexity": False, "token_accuracy": True})

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Documents, cut into pieces of at most ``data.max_length`` tokens; no text is dropped."""
        return encode_documents(source, data.text[0], processor, data.max_length, client=data.client)

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """Tokens, and which of them are predicted."""
        batch = self.collate(processor, seed=0)([row])
        labels = batch["labels"][0]
        asked = torch.zeros_like(labels, dtype=torch.bool)
        asked[-self.targets(batch).shape[1] :] = self.targets(batch)[0] != IGNORED
        original = torch.where(labels == IGNORED, batch["input_ids"][0], labels)  # not the masks
        return ShownExample(tokens=shown_tokens(processor, original.tolist(), asked.tolist()))

    def targets(self, batch: Batch) -> Tensor:
        """The labels to predict, ``[B, T']``."""
        raise NotImplementedError

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits that predict the `targets`, ``[B, T', V]``."""
        raise NotImplementedError

    def predictions(self, batch: Batch) -> Tensor:
        """The number of predicted tokens of each example."""
        return (self.targets(batch) != IGNORED).sum(1)

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed cross-entropy and the number of predicted tokens of each example."""
        logits, labels = self.predicting(logits, batch), self.targets(batch)
        tokens = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return tokens.sum(1), self.predictions(batch)

    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        """Whether each predicted token is correct."""
        logits, labels = self.predicting(logits, batch), self.targets(batch)
        asked = labels != IGNORED
        return {"right": (logits.argmax(-1) == labels)[asked].cpu().numpy()}

    def of_loss(self, loss: float) -> dict[str, float]:
        """Perplexity exp(loss)."""
        return {"perplexity": math.exp(loss) if loss < 700 else math.inf}

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Perplexity, and the share of correctly predicted tokens."""
        return {**self.of_loss(loss), "token_accuracy": float(np.mean(measured["right"]))}


class MaskedLM(LanguageModeling):
    """Predicts 15 % of the tokens, which are masked (BERT, arXiv:1810.04805, §3.1)."""

    takes = {**LanguageModeling.takes, VIRTUAL_TOKENS: "peft has no virtual tokens for it; use lora"}
    kind: Literal["masked-lm"] = "masked-lm"
    """Masked tokens of a text."""
    auto_class = AutoModelForMaskedLM
    peft_type = None
    draws_inputs = True

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """As for every language model.

        Raises:
            RecipeError: at ``model.path``: the tokenizer has no mask token.
        """
        if processor.mask_token is None:
            raise RecipeError(
                "the tokenizer has no mask token, which masked-lm needs; choose an encoder, or another `task.kind`",
                where="model.path",
            )
        return super().encode(source, data, processor, labels)

    def collate(self, processor: Any, seed: int) -> Collate:
        """Selects 15 % of the tokens: 80 % of them become the mask token, 10 % a random token, 10 % stay.

        The masks of examples are drawn one after the other, so that they do not depend on the size of batches.
        """
        masking = DataCollatorForLanguageModeling(processor, mlm=True)
        masking.generator = torch.Generator().manual_seed(seed)  # the library's own seeds only its main process
        special = torch.tensor(processor.all_special_ids)

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            batch: Batch = dict(processor.pad([dict(row) for row in rows], return_tensors="pt"))
            batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
            for number, row in enumerate(rows):
                ids = torch.tensor([row["input_ids"]])
                own = number, slice(ids.shape[1])
                batch["input_ids"][own], batch["labels"][own] = masking.torch_mask_tokens(ids, torch.isin(ids, special))
            return batch

        return collate

    def targets(self, batch: Batch) -> Tensor:
        """The masked tokens."""
        return batch["labels"]

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """Every position predicts itself."""
        return logits


class CausalLM(LanguageModeling):
    """Predicts the next token."""

    kind: Literal["causal-lm"] = "causal-lm"
    """The next token of a text."""
    auto_class = AutoModelForCausalLM
    peft_type = "CAUSAL_LM"
    causal = True
    generates = True
    continues = True

    def questions(self, source: Source, data: DataSettings) -> list[Question]:
        """Each text as it is."""
        return [Question.of(text) for text in text_column(source, data.text[0], "data.text")]

    def prompt(self, question: Question, processor: Any, data: DataSettings) -> list[int]:
        """The text with the tokens that the tokenizer puts before every text, and none after it."""
        reader = plain_tokenizer(processor)
        around = reader(question.text, return_special_tokens_mask=True)
        ids, special = around["input_ids"], around["special_tokens_mask"]
        last = max(place for place, flag in enumerate(special) if not flag)
        found: list[int] = ids[: last + 1]
        return found

    def check_model(self, tunable: Tunable, processor: Any, name: str, data: DataSettings) -> None:
        """Refuses a model whose predictions depend on later tokens.

        Raises:
            RecipeError: as `refuse_look_ahead`.
        """
        refuse_look_ahead(self, tunable, processor, name)

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """As for every language model; with ``data.end_token`` a document's last token is the end token."""
        return encode_documents(
            source, data.text[0], processor, data.max_length, end_token=data.end_token, client=data.client
        )

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads; the labels are the tokens, without padding."""

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            batch: Batch = dict(processor.pad(list(rows), return_tensors="pt"))
            # By mask, not by pad id: if the end token is also the padding token, real end tokens must still be learnt.
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
            return batch

        return collate

    def targets(self, batch: Batch) -> Tensor:
        """Every token except the first."""
        return batch["labels"][:, 1:]

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """Position t predicts token t + 1; virtual tokens before the text predict nothing."""
        return logits[:, -batch["labels"].shape[1] : -1]
