"""Chunks hold every word; merged answers of silos are those of one index; what is too long or too short is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedfm.clients.retrieval.chunks import cut
from fedfm.clients.retrieval.index import PassageIndex
from fedfm.clients.retrieval.settings import ABSENT, ANSWERS, CHUNKS, AskSettings, counted
from fedfm.clients.work.retrieve import skipped
from fedfm.errors import RecipeError
from fedfm.models.byte_tokenizer import byte_tokenizer
from fedfm.spec import spec_of
from fedfm.updates import MessageError

TOKENIZER = byte_tokenizer("pair", 64)


def index(chunks: int, seed: int) -> PassageIndex:
    values = np.random.default_rng(seed).normal(size=(chunks, 8)).astype(np.float32)
    return PassageIndex(values / np.linalg.norm(values, axis=1, keepdims=True), [f"text é{n}" for n in range(chunks)])


def test_chunks_hold_all_of_a_text_and_overlap() -> None:
    text = "the quick brown fox jumps over the lazy dog, again and again"
    settings = AskSettings(chunk_tokens=20, overlap_tokens=5)
    own = 20 - TOKENIZER.num_special_tokens_to_add()
    found = cut([text, "short"], TOKENIZER, settings)
    assert found.texts[-1] == "short"
    pieces = found.texts[:-1]
    assert {len(piece) for piece in pieces[:-1]} == {own}
    assert pieces[0] + "".join(piece[5:] for piece in pieces[1:]) == text
    assert all(first[-5:] == second[:5] for first, second in pairwise(pieces))
    assert found.examples.lengths.tolist() == [len(piece) + 20 - own for piece in found.texts]


@pytest.mark.parametrize(
    ("tokens", "overlap", "reason"),
    [(65, 5, "ask.chunk_tokens: 65 is more than the 64"), (10, 9, "ask.overlap_tokens: a chunk of 10 tokens")],
)
def test_chunks_that_cannot_be_are_refused(tokens: int, overlap: int, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        cut(["some text"], TOKENIZER, AskSettings(chunk_tokens=tokens, overlap_tokens=overlap))


def test_the_best_ten_of_twenty_silos_are_those_of_one_index() -> None:
    silos = [index(40, seed) for seed in range(20)]
    questions = index(15, 99).embeddings
    central = PassageIndex(np.concatenate([silo.embeddings for silo in silos]), [])
    scores, chunks = central.search(questions, 10)
    found = [silo.search(questions, 10) for silo in silos]
    for row in range(len(questions)):
        merged = sorted(
            (-float(score), 40 * number + int(chunk))
            for number, (own_scores, own_chunks) in enumerate(found)
            for score, chunk in zip(own_scores[row], own_chunks[row], strict=True)
        )[:10]
        assert [chunk for _, chunk in merged] == chunks[row].tolist()
        np.testing.assert_allclose([-score for score, _ in merged], scores[row], rtol=1e-6)


@pytest.mark.parametrize("answer", ["best-score", "scores", "snippets"])
def test_an_answer_has_the_announced_spec_whatever_the_texts(answer: str) -> None:
    settings = AskSettings(answer=answer, per_client=5, questions=4, snippet_bytes=16)
    for chunks in (2, 30):
        assert spec_of(index(chunks, 0).answer(index(4, 1).embeddings, settings)) == settings.returns()[ANSWERS]
    group = index(2, 0).answer(index(4, 1).embeddings, settings)
    if answer != "best-score":
        assert (group["chunks"][:, 2:] == ABSENT).all()


def test_what_leaves_is_counted() -> None:
    settings = AskSettings(per_client=2, questions=3, answer="snippets")
    group = index(3, 0).answer(index(3, 1).embeddings, settings, np.array([2, ABSENT, 4]))
    assert counted(group) == (1, 1)
    best = index(3, 0).answer(index(3, 1).embeddings, AskSettings(questions=3, answer="best-score"))
    assert counted(best) == (3, 3)


@pytest.mark.parametrize(
    "skip",
    [
        torch.tensor([0, -2]),
        torch.tensor([0, 10]),
        torch.tensor([2**62, 0]),
        torch.tensor([0, 0, 0]),
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(2),
        None,
    ],
)
def test_a_skip_that_the_exchanges_of_the_recipe_cannot_have_is_refused(skip: torch.Tensor | None) -> None:
    settings = AskSettings(per_client=3, further=3, questions=2)
    assert skipped({CHUNKS: torch.tensor([9, ABSENT])}, settings) == [9, ABSENT]
    with pytest.raises(MessageError, match="group `skip` must have"):
        skipped({} if skip is None else {CHUNKS: skip}, settings)


def test_with_a_best_score_nothing_can_be_skipped() -> None:
    settings = AskSettings(answer="best-score", further=3, questions=1)
    assert (settings.exchanges, settings.chunks) == (1, 1)
    with pytest.raises(MessageError, match="up to 0"):
        skipped({CHUNKS: torch.tensor([1])}, settings)


def test_chunks_must_advance() -> None:
    with pytest.raises(ValidationError, match="cannot share"):
        AskSettings(chunk_tokens=64, overlap_tokens=64)
