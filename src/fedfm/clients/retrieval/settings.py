"""Settings of questions to the clients, and the shapes of what their answers hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from fedfm.settings import Settings
from fedfm.spec import Spec, TensorSpec

QUESTION = "question"
"""Group of a message: ``embedding`` float32 [Q, d], or the questions as texts."""

ANSWERS = "answers"
"""Group of an answer, see `AskSettings.returns`."""

SCORES, CHUNKS, SNIPPETS, EMBEDDING = "scores", "chunks", "snippets", "embedding"


@dataclass(frozen=True)
class Disclosure:
    """What answers tell of a client's texts.

    Attributes:
        questions: that are answered.
        scores: numbers in the answer to one question.
        snippets: pieces of text in the answer to one question.
        readable: whether the questions come as text.
    """

    questions: int
    scores: int
    snippets: int
    readable: bool


class AskSettings(Settings):
    """The recipe's ``ask``: questions to the clients of a run of `retrieval`, once it is trained (`fedfm ask`)."""

    chunk_tokens: Annotated[int, Field(ge=8, le=1_000_000)] = 64
    """Tokens of a chunk of a passage, special tokens included; each chunk has an embedding, which stays at the
    client."""
    overlap_tokens: Annotated[int, Field(ge=0)] = 16
    """Tokens that a chunk shares with the one before it."""
    per_client: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Chunks that each client answers a question with, at most; 1 where it answers with its `best-score`."""
    answer: Literal["best-score", "scores", "snippets"] = "scores"
    """What comes back: the score of the best chunk, scores and numbers of the best chunks, or also their texts."""
    snippet_bytes: Annotated[int, Field(ge=16, le=1_000_000)] = 400
    """UTF-8 bytes of a chunk's text that are sent, at most; every text takes as many in a message."""
    question: Literal["embedding", "text"] = "embedding"
    """How a question goes out: as the embedding that the tuned model gives it, or as text, which sites can record."""
    questions: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Number of questions of an exchange, which `fedfm ask` sets; null: the recipe trains, and asks nothing."""

    @model_validator(mode="after")
    def _advances(self) -> Self:
        if self.overlap_tokens >= self.chunk_tokens:
            raise ValueError(
                f"chunks of {self.chunk_tokens} tokens cannot share {self.overlap_tokens} of them; lower overlap_tokens"
            )
        return self

    @property
    def chunks(self) -> int:
        """Chunks in the answer of a client to a question."""
        return 1 if self.answer == "best-score" else self.per_client

    @property
    def disclosure(self) -> Disclosure | None:
        """What answers tell; None for a recipe that asks nothing."""
        if self.questions is None:
            return None
        texts = self.chunks if self.answer == "snippets" else 0
        return Disclosure(self.questions, self.chunks, texts, readable=self.question == "text")

    def returns(self) -> Mapping[str, Spec]:
        """Groups of an answer.

        ``scores`` float32 [Q, n], −1 where the client has fewer chunks; except for the best score also ``chunks`` int64
        [Q, n], their numbers at the client, −1 likewise; with texts also ``snippets`` uint8 [Q, n, bytes], UTF-8 that
        zeros follow. The shapes do not depend on the texts.
        """
        shape = (self.questions or 0, self.chunks)
        spec = {SCORES: TensorSpec(shape)}
        if self.answer != "best-score":
            spec[CHUNKS] = TensorSpec(shape, torch.int64)
        if self.answer == "snippets":
            spec[SNIPPETS] = TensorSpec((*shape, self.snippet_bytes), torch.uint8)
        return {ANSWERS: spec}
