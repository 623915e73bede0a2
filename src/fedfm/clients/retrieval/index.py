"""The embeddings of a client's chunks, and the search in them. Both stay at the client.

Every embedding has length 1, so the score of a chunk for a question, their scalar product, is a cosine between −1 and
1, and scores of different clients that use one model compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fedfm.clients.evaluation import Evaluator
from fedfm.clients.retrieval.chunks import cut
from fedfm.clients.retrieval.settings import ABSENT, CHUNKS, SCORES, SNIPPETS, AskSettings
from fedfm.data.tensor_cache import CachedTensors, cached_tensors, tensor_key
from fedfm.data.text import encode_texts


@dataclass(frozen=True, eq=False)
class PassageIndex:
    """N chunks of a client's texts.

    Attributes:
        embeddings: float32 [N, d], of length 1.
        texts: of the chunks.
    """

    embeddings: np.ndarray
    texts: Sequence[str]

    def search(self, questions: np.ndarray, most: int, skip: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The best chunks for each question, the best first; of equal scores, the lower number first.

        Args:
            questions: embeddings [Q, d].
            most: chunks a question.
            skip: int64 [Q], the number of better chunks to leave out; `ABSENT`: no chunk is wanted. None: 0 for all.

        Returns:
            Scores float32 [Q, most] and numbers of the chunks int64 [Q, most], `ABSENT` where there are fewer chunks or
            none is wanted.
        """
        scores = questions @ self.embeddings.T
        ranked = np.argsort(-scores, axis=1, kind="stable")
        first = np.zeros(len(questions), dtype=np.int64) if skip is None else skip
        places = first[:, None] + np.arange(most)  # [Q, most]
        there = (first[:, None] != ABSENT) & (places < ranked.shape[1])
        best = np.take_along_axis(ranked, np.where(there, places, 0), axis=1)
        found = np.take_along_axis(scores, best, axis=1).astype(np.float32)
        return np.where(there, found, np.float32(ABSENT)), np.where(there, best, ABSENT)

    def answer(self, questions: np.ndarray, settings: AskSettings, skip: np.ndarray | None = None) -> dict[str, Tensor]:
        """What leaves the client in one exchange, with the spec of `AskSettings.returns`; ``skip`` as for `search`."""
        scores, chunks = self.search(questions, settings.chunks, skip)
        group = {SCORES: torch.from_numpy(scores)}
        if settings.answer != "best-score":
            group[CHUNKS] = torch.from_numpy(chunks.astype(np.int64))
        if settings.answer == "snippets":
            texts = np.zeros((*chunks.shape, settings.snippet_bytes), dtype=np.uint8)
            for place, chunk in np.ndenumerate(chunks):
                text = b"" if chunk == ABSENT else self.texts[chunk].encode()[: settings.snippet_bytes]
                texts[place][: len(text)] = np.frombuffer(text, dtype=np.uint8)
            group[SNIPPETS] = torch.from_numpy(texts)
        return group


def embed(evaluator: Evaluator, texts: Sequence[str], max_length: int) -> np.ndarray:
    """Embeddings of texts, float32 [N, d], each truncated to ``max_length`` tokens, by the tunable's present value.

    Raises:
        DataError: the model has no token for a text.
    """
    tokenizer = cast(PreTrainedTokenizerBase, evaluator.processor)
    return evaluator.logits(encode_texts([list(texts)], tokenizer, max_length))


def index_of(
    documents: Sequence[str], evaluator: Evaluator, settings: AskSettings, model: Mapping[str, Any]
) -> PassageIndex:
    """The index of a client's texts by the tunable's present value; kept in this machine's cache.

    Args:
        documents: the client's texts.
        evaluator: of the model.
        settings: how texts are cut.
        model: what identifies the model with its tunable and its pooling, as JSON.

    Raises:
        RecipeError: as `cut`.
        ValueError: the client has no texts.
    """
    if not documents:
        raise ValueError("the client has no texts to search")
    chunks = cut(documents, cast(PreTrainedTokenizerBase, evaluator.processor), settings)
    content = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    shape = [settings.chunk_tokens, settings.overlap_tokens, str(evaluator.device)]
    key = tensor_key(kind="passage index", documents=content, model=dict(model), shape=shape)

    def build() -> CachedTensors:
        return CachedTensors({"embeddings": torch.from_numpy(evaluator.logits(chunks.examples))})

    return PassageIndex(cached_tensors(key, build).tensors["embeddings"].numpy(), chunks.texts)
