"""Settings of questions to the clients, and the shapes of what their answers hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedfm.settings import Settings
from fedfm.spec import Spec, TensorSpec

QUESTION = "question"
"""Group of a message: ``embedding`` float32 [Q, d], or the questions as texts."""

SKIP = "skip"
"""Group of a message: ``chunks`` int64 [Q], how many of a client's best chunks each question skips, because they were
returned before; `ABSENT` where nothing is asked."""

ANSWERS = "answers"
"""Group of an answer, see `AskSettings.returns`."""

ABSENT = -1
"""Score and number of a chunk that a client does not have, or is not asked for."""

SCORES, CHUNKS, SNIPPETS, EMBEDDING = "scores", "chunks", "snippets", "embedding"


@dataclass(frozen=True)
class Disclosure:
    """What the answers of one exchange tell of a client's texts.

    Attributes:
        questions: that are answered.
        scores: numbers in the answers to one question, those of the exchanges before included.
        snippets: pieces of text in the answers to one question, likewise.
        texts: pieces of text in the answers to all questions of this exchange.
        readable: whether the questions come as text.
    """

    questions: int
    scores: int
    snippets: int
    texts: int
    readable: bool


def counted(answers: Mapping[str, Tensor]) -> tuple[int, int]:
    """Questions that have an answer in a group of answers, and the chunks of all answers."""
    if CHUNKS not in answers:
        return (len(answers[SCORES]), answers[SCORES].numel()) if SCORES in answers else (0, 0)
    there = answers[CHUNKS] != ABSENT
    return int(there.any(dim=1).sum()), int(there.sum())


class AskSettings(Settings):
    """The recipe's ``ask``: questions to the clients of a run of `retrieval`, once it is trained (`fedfm ask`)."""

    chunk_tokens: Annotated[int, Field(ge=8, le=1_000_000)] = 64
    """Tokens of a chunk of a passage, special tokens included; each chunk has an embedding, which stays at the
    client."""
    overlap_tokens: Annotated[int, Field(ge=0)] = 16
    """Tokens that a chunk shares with the one before it."""
    per_client: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Chunks that each client answers a question with in one exchange, at most; 1 where it answers with its
    `best-score`."""
    further: Annotated[int, Field(ge=0, le=1000)] = 3
    """Further exchanges, at most: clients whose chunks are among the best of all return the next `per_client`; 0: each
    client is asked once, as with `best-score`."""
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
    def exchanges(self) -> int:
        """Exchanges with a client, at most."""
        return 1 if self.answer == "best-score" else 1 + self.further

    def disclosure(self, skip: int = 0) -> Disclosure | None:
        """What the answers of one exchange tell, at most; None for a recipe that asks nothing.

        Args:
            skip: the most chunks that a question of the exchange skips.
        """
        if self.questions is None:
            return None
        quotes = self.answer == "snippets"
        told = skip + self.chunks
        texts = self.questions * self.chunks if quotes else 0
        return Disclosure(self.questions, told, told if quotes else 0, texts, readable=self.question == "text")

    def returns(self) -> Mapping[str, Spec]:
        """Groups of an answer, in each exchange.

        ``scores`` float32 [Q, n], −1 where the client has fewer chunks or is not asked; except for the best score also
        ``chunks`` int64 [Q, n], their numbers at the client, −1 likewise; with texts also ``snippets`` uint8 [Q, n,
        bytes], UTF-8 that zeros follow. The shapes do not depend on the texts.
        """
        shape = (self.questions or 0, self.chunks)
        spec = {SCORES: TensorSpec(shape)}
        if self.answer != "best-score":
            spec[CHUNKS] = TensorSpec(shape, torch.int64)
        if self.answer == "snippets":
            spec[SNIPPETS] = TensorSpec((*shape, self.snippet_bytes), torch.uint8)
        return {ANSWERS: spec}
