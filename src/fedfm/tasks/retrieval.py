"""Retrieval: an encoder learns to map questions near the passages that answer them.

Karpukhin et al., Dense Passage Retrieval, arXiv:2004.04906, §3.2: with embeddings q_i of the questions and p_i of the
passages of a batch, all of length 1, s_ij = q_i·p_j / τ, and

    L = −Σ_i [ log exp(s_ii) / Σ_j exp(s_ij) + log exp(s_ii) / Σ_j exp(s_ji) ] / 2B

The first term is DPR's in-batch negatives; the second, in the other direction, makes it symmetric as in Radford et al.,
CLIP, arXiv:2103.00020, figure 3. One encoder reads both, as in Sentence-BERT, arXiv:1908.10084.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from fedfm.capabilities import LABELS
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source
from fedfm.data.text_pairs import PASSAGE, encode_text_pairs
from fedfm.errors import RecipeError
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Batch, Collate, Measured, Task
from fedfm.tasks.shown import ShownExample, shown_tokens

ROWS = 1024
"""Questions that are compared with all passages at once."""


class Retrieval(Task):
    """Finds the passage that answers a question. A batch has B questions and then their B passages, as 2B rows."""

    takes = {LABELS: "its examples have none"}
    kind: Literal["retrieval"] = "retrieval"
    """The passage that answers a question, by an encoder of both."""
    pooling: Literal["mean", "cls"] = "mean"
    """How one embedding of a text is made: the `mean` of its tokens' last hidden states, or the first token (`cls`)."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.05
    """τ: similarities are divided by it before the softmax; smaller makes hard negatives count more."""
    modality = "text"
    auto_class = AutoModel
    peft_type = "FEATURE_EXTRACTION"
    labelled = False
    across_examples = True
    text_columns = (2,)
    answers_questions = True
    metrics = MappingProxyType({"recall_at_10": True, "recall_at_1": True, "mrr": True})

    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Token ids of both texts of a row, each truncated to ``data.max_length`` tokens."""
        return encode_text_pairs(source, data.text, processor, data.max_length, client=data.client)

    def collate(self, processor: Any, seed: int) -> Collate:
        """Pads all texts to the longest; rows without a passage are texts alone, one row each."""

        def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
            first = [{name: row[name] for name in row if not name.startswith(PASSAGE)} for row in rows]
            second = [
                {name.removeprefix(PASSAGE): row[name] for name in row if name.startswith(PASSAGE)} for row in rows
            ]
            return dict(processor.pad([*first, *filter(None, second)], return_tensors="pt"))

        return collate

    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """The tokens of the question, and those of the passage that it is to find."""
        question, passage = list(row["input_ids"]), list(row[f"{PASSAGE}input_ids"])
        return ShownExample(
            tokens=shown_tokens(processor, question, [False] * len(question)),
            targets=shown_tokens(processor, passage, [False] * len(passage)),
        )

    def check_model(self, tunable: Tunable, processor: Any, name: str, data: DataSettings) -> None:
        """Refuses a model that gives no embedding of a text, or the same one of all texts.

        Raises:
            RecipeError: at ``model.path`` or ``task.pooling``.
        """
        batch = processor(["a question", "another text"], padding=True, return_tensors="pt")
        tunable.eval()
        device = tunable.base_model.device
        try:
            with torch.no_grad():
                found = self.outputs(tunable.model, {key: tensor.to(device) for key, tensor in batch.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise RecipeError(
                f"{name} gives no hidden states of a text alone, which become its embedding: choose an encoder or a "
                "decoder of texts",
                where="model.path",
            ) from error
        if torch.allclose(found[0], found[1], atol=1e-6):
            raise RecipeError(
                f"{name} gives different texts the same embedding: its first token does not read the others; use mean",
                where="task.pooling",
            )

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Embeddings of the texts, of length 1, ``[rows, d]``; virtual tokens before a text are left out."""
        mask = batch["attention_mask"]
        hidden = model(**batch).last_hidden_state[:, -mask.shape[1] :]
        if self.pooling == "cls":
            return normalize(hidden[:, 0], dim=-1)
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return normalize((hidden * weights).sum(1), dim=-1)  # the length of a sum or a mean does not matter

    def predictions(self, batch: Batch) -> Tensor:
        """Two for each pair, one in each direction; none for a pair without another one to compare it with."""
        pairs = len(batch["input_ids"]) // 2
        return torch.full((pairs,), 2 if pairs > 1 else 0, device=batch["input_ids"].device)

    def losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each pair in both directions, summed.

        Another pair of the batch with the same question or the same passage is no negative.
        """
        questions, passages = outputs.chunk(2)
        scores = questions @ passages.T / self.temperature
        alike = torch.zeros_like(scores, dtype=torch.bool)
        for ids in batch["input_ids"].chunk(2):  # padded alike
            alike |= (ids.unsqueeze(1) == ids.unsqueeze(0)).all(-1)
        own = torch.arange(len(scores), device=scores.device)
        scores = scores.masked_fill(alike & (own.unsqueeze(1) != own), -torch.inf)
        totals = cross_entropy(scores, own, reduction="none") + cross_entropy(scores.T, own, reduction="none")
        return totals, self.predictions(batch)

    def measure(self, outputs: Tensor, batch: Batch) -> Measured:
        """Both embeddings of each pair, and a digest of the passage's tokens, by which equal ones are found."""
        questions, passages = (part.float().cpu().numpy() for part in outputs.chunk(2))
        ids, masks = batch["input_ids"].chunk(2)[1].cpu(), batch["attention_mask"].chunk(2)[1].cpu()
        digests = [_digest(row[mask.bool()].numpy()) for row, mask in zip(ids, masks, strict=True)]
        return {"question": questions, "passage": passages, "digest": np.asarray(digests, dtype=np.uint64)}

    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """Recall and mean reciprocal rank of each question's passage among all different passages that were measured.

        A passage with the same score as the right one ranks before it.
        """
        _, first, own = np.unique(measured["digest"], return_index=True, return_inverse=True)
        ranks = rank_of(measured["question"], measured["passage"][first], own)
        return {
            "recall_at_10": float(np.mean(ranks <= 10)),
            "recall_at_1": float(np.mean(ranks <= 1)),
            "mrr": float(np.mean(1 / ranks)),
        }


def rank_of(questions: np.ndarray, passages: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rank of each question's passage, int64 [Q] from 1; of equal scores, the right one comes last.

    Args:
        questions: embeddings [Q, d].
        passages: embeddings [P, d].
        own: index of each question's passage, [Q].
    """
    ranks = []
    for start in range(0, len(questions), ROWS):
        scores = questions[start : start + ROWS] @ passages.T
        right = scores[np.arange(len(scores)), own[start : start + ROWS]]
        ranks.append((scores >= right[:, None]).sum(1))
    return np.concatenate(ranks)


def _digest(ids: np.ndarray) -> int:
    return int.from_bytes(hashlib.sha256(ids.astype(np.int64).tobytes()).digest()[:8], "big")
