"""Clients' answers to questions, merged: one list of passages for each question, or a ranking of the asker's choices.

A client returns its chunks in the order of their scores. So the threshold algorithm (Fagin, Lotem, Naor,
arXiv:cs/0204046, §4) says when a list is that of one index: when each client either has no further chunk, or has
returned one that is not in the list, or the last of the list. Its further chunks rank after that one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfm.clients.retrieval.settings import ABSENT, CHUNKS, SCORES, SNIPPETS


@dataclass(frozen=True)
class Passage:
    """A chunk of a client's texts.

    Attributes:
        client: client id.
        score: cosine of its embedding and the question's.
        chunk: its number at the client; None where only the best score comes back.
        text: what it says; None where no text comes back.
    """

    client: str
    score: float
    chunk: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class PossibleAnswer:
    """One of the asker's own possible answers.

    Attributes:
        text: of it.
        score: the best that any client gives to the question followed by it.
        votes: clients that give it their highest score.
    """

    text: str
    score: float
    votes: int


@dataclass(frozen=True)
class Answered:
    """The answers of all clients to one question.

    Attributes:
        question: as it was asked.
        passages: the best of all clients, the best first; empty for a question with choices.
        choices: the best first; empty for a question without.
        clients: that answered.
        failed: client → why it did not answer.
        cut_short: client → why it did not answer when it was asked again.
        complete: whether the answer is that of one index over all clients.
        exchanges: in which a client was asked this question.
        bytes: this question's share of the bytes of all messages, ``down`` and ``up``.
        snippets: pieces of text that left clients.
    """

    question: str
    passages: list[Passage]
    choices: list[PossibleAnswer]
    clients: int
    failed: dict[str, str]
    cut_short: dict[str, str]
    complete: bool
    exchanges: int
    bytes: dict[str, float]
    snippets: int


@dataclass
class Listing:
    """What clients have returned for one question.

    Attributes:
        most: passages to list.
        returned: client → its passages, the best first.
        exhausted: clients that have no further passage.
        failed: client → why it did not answer when it was asked again.
        exchanges: in which a client was asked.
    """

    most: int
    returned: dict[str, list[Passage]] = field(default_factory=dict)
    exhausted: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    exchanges: int = 0

    def add(self, client: str, passages: Sequence[Passage], chunks: int) -> None:
        """Adds what a client returned in one exchange, in which it could return so many chunks."""
        self.returned.setdefault(client, []).extend(passages)
        if len(passages) < chunks:
            self.exhausted.add(client)

    @property
    def best(self) -> list[Passage]:
        """The list; of equal scores, the passage of the client that is first by name, and of its higher rank."""
        everything = [passage for _, passages in sorted(self.returned.items()) for passage in passages]
        return sorted(everything, key=lambda passage: -passage.score)[: self.most]

    @property
    def unsettled(self) -> set[str]:
        """Clients that may have a further passage of the list."""
        best = self.best
        ahead = Counter(passage.client for passage in (best[:-1] if len(best) == self.most else best))
        return {
            client
            for client, passages in self.returned.items()
            if client not in self.exhausted and ahead[client] == len(passages)
        }

    @property
    def askable(self) -> dict[str, int]:
        """Client → passages that it has returned, of those that may be asked for further ones."""
        return {client: len(self.returned[client]) for client in self.unsettled - self.failed.keys()}

    @property
    def snippets(self) -> int:
        """Pieces of text that left clients."""
        return sum(passage.text is not None for passages in self.returned.values() for passage in passages)


@dataclass
class Tally:
    """What clients say of the choices of one question."""

    best: dict[str, float] = field(default_factory=dict)
    votes: Counter[str] = field(default_factory=Counter)

    def add(self, scores: Mapping[str, float]) -> None:
        """Adds one client's scores."""
        for text, score in scores.items():
            self.best[text] = max(score, self.best.get(text, float(ABSENT)))
        self.votes[max(scores, key=lambda text: scores[text])] += 1

    @property
    def ranked(self) -> list[PossibleAnswer]:
        """The choices, the one with the best score first."""
        ordered = sorted(self.best, key=lambda text: -self.best[text])
        return [PossibleAnswer(text, self.best[text], self.votes[text]) for text in ordered]


def passages_of(client: str, group: Mapping[str, Tensor], place: int) -> list[Passage]:
    """What a client returns for one question.

    Args:
        client: client id.
        group: its answers, see `AskSettings.returns`.
        place: of the question.
    """
    scores = group[SCORES][place].tolist()
    chunks = group[CHUNKS][place].tolist() if CHUNKS in group else [None] * len(scores)
    texts = [_text(row) for row in group[SNIPPETS][place]] if SNIPPETS in group else [None] * len(scores)
    rows = zip(scores, chunks, texts, strict=True)
    return [Passage(client, score, chunk, text) for score, chunk, text in rows if chunk != ABSENT]


def tally_of(choices: Sequence[str], found: Mapping[str, Mapping[str, Tensor]], place: int) -> Tally:
    """What clients say of the choices of one question.

    Args:
        choices: the same for each question.
        found: client → its answers, a row for each question followed by each choice.
        place: of the question.
    """
    tally, rows = Tally(), slice(place * len(choices), (place + 1) * len(choices))
    for _, group in sorted(found.items()):
        tally.add(dict(zip(choices, torch.flatten(group[SCORES])[rows].tolist(), strict=True)))
    return tally


def _text(row: Tensor) -> str:
    """A text that zeros follow; a letter that was cut off at its end is left out."""
    return row.numpy().tobytes().rstrip(b"\0").decode(errors="ignore")
