"""Masked and causal language modelling: cross-entropy a token; perplexity and token accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, DataCollatorForLanguageModeling

from fedfm.data.documents import encode_documents
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.errors import RecipeError
from fedfm.tasks.base import Batch, Collate, Measured, Task

IGNORED = -100
"""Label of a position that is not predicted."""


class LanguageModeling(Task):
    """What masked and causal language modelling share."""

    modality = "text"
    labelled = False
    metrics = MappingProxyType({"perplexity": False, "token_accuracy": True})

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Documents cut into pieces of at most ``data.max_length`` tokens; nothing is thrown away."""
        return encode_documents(source, data.text[0], processor, data.max_length, client=data.client)

    def targets(self, batch: Batch) -> Tensor:
        """The labels that are to be predicted, ``[B, T']``."""
        raise NotImplementedError

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """The logits that predict the `targets`, ``[B, T', V]``."""
        raise NotImplementedError

    def predictions(self, batch: Batch) -> Tensor:
        """Predicted tokens of each example."""
        return (self.targets(batch) != IGNORED).sum(1)

    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy and predicted tokens of each example."""
        logits, labels = self.predicting(logits, batch), self.targets(batch)
        tokens = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return tokens.sum(1), self.predictions(batch)

    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        """Whether each predicted token was right."""
        logits, labels = self.predicting(logits, batch), self.targets(batch)
        asked = labels != IGNORED
        return {"right": (logits.argmax(-1) == labels)[asked].cpu().numpy()}

    def score(self, measured: Measured, loss: float) -> dict[str, float]:
        """Perplexity exp(loss), and the share of tokens predicted right."""
        right = measured["right"]
        return {
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "token_accuracy": float(np.mean(right)),
        }


class MaskedLM(LanguageModeling):
    """Predicts the 15 % of tokens that were masked (BERT, arXiv:1810.04805, §3.1)."""

    auto_class = AutoModelForMaskedLM
    peft_type = None
    draws_inputs = True

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """As for every language model.

        Raises:
            RecipeError: at ``model.path`` when the tokenizer has no token to mask with.
        """
        if processor.mask_token is None:
            raise RecipeError(
                "the tokenizer has no mask token, so nothing can be masked; choose an encoder, or another `task.kind`",
                where="model.path",
            )
        return super().encode(source, data, processor, labels)

    def collate(self, processor: Any, seed: int) -> Collate:
        """Masks 15 % of the tokens: 80 % of them by the mask, 10 % by a random token, 10 % stay.

        Examples draw one after the other, so that how many make a batch decides nothing.
        """
        masking = DataCollatorForLanguageModeling(processor, mlm=True, seed=seed)
        masking.create_rng()
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
        """What was masked."""
        return batch["labels"]

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """Every position predicts itself."""
        return logits


class CausalLM(LanguageModeling):
    """Predicts the next token."""

    auto_class = AutoModelForCausalLM
    peft_type = "CAUSAL_LM"

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """As for every language model; with ``data.end_token`` a document's last token is the end token."""
        return encode_documents(
            source, data.text[0], processor, data.max_length, end_token=data.end_token, client=data.client
        )

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads; the labels are the tokens, except where there is padding."""

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            batch: Batch = dict(processor.pad(list(rows), return_tensors="pt"))
            # By mask, not by pad id: where the end-of-text token pads, a real one must still be learnt.
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
            return batch

        return collate

    def targets(self, batch: Batch) -> Tensor:
        """Every token but the first."""
        return batch["labels"][:, 1:]

    def predicting(self, logits: Tensor, batch: Batch) -> Tensor:
        """Position t predicts token t + 1; soft prompts in front of the text predict nothing."""
        return logits[:, -batch["labels"].shape[1] : -1]
