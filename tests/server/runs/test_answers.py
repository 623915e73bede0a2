"""A list of passages is that of one index once no client can have a further one; clients are asked until then."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fedfm.clients.retrieval.index import PassageIndex
from fedfm.clients.retrieval.settings import ABSENT, AskSettings
from fedfm.server.runs.answers import Listing, Passage, passages_of

MOST = 10
SIZES = (40, 1, 2, 9, 3, 30)


def silos(seed: int) -> list[PassageIndex]:
    """Silos, the first of which mostly is closest to all questions; whole numbers, so that many scores are equal."""
    draw = np.random.default_rng(seed)
    values = [draw.integers(-2, 3, size=(size, 4)).astype(np.float32) for size in SIZES]
    values[0] += seed % 3 > 0
    return [PassageIndex(silo, [f"{number}" for number in range(len(silo))]) for silo in values]


def played(seed: int, each: int, further: int) -> tuple[list[Listing], list[list[Passage]], int]:
    """Listings of four questions after some exchanges, the lists of one index, and the messages to clients."""
    held, questions = silos(seed), np.random.default_rng(99).integers(0, 3, size=(4, 4)).astype(np.float32)
    settings = AskSettings(per_client=each, further=further, questions=len(questions))
    listings, messages = [Listing(MOST) for _ in questions], len(held)
    asked: list[dict[str, int]] = [{str(number): 0 for number in range(len(held))} for _ in questions]
    for _ in range(settings.exchanges):
        for name in sorted({name for skips in asked for name in skips}):
            skip = np.array([skips.get(name, ABSENT) for skips in asked], dtype=np.int64)
            group = held[int(name)].answer(questions, settings, skip)
            assert all((group["chunks"][place] == ABSENT).all() for place in np.flatnonzero(skip == ABSENT))
            for place in np.flatnonzero(skip != ABSENT):
                listings[place].add(name, passages_of(name, group, int(place)), settings.chunks)
        asked = [listing.askable for listing in listings]
        messages += len({name for skips in asked for name in skips})
    owner = [(str(name), number) for name, silo in enumerate(held) for number in range(len(silo.embeddings))]
    scores, best = PassageIndex(np.concatenate([silo.embeddings for silo in held]), []).search(questions, MOST)
    central = [
        [Passage(owner[chunk][0], float(score), owner[chunk][1]) for score, chunk in zip(*row, strict=True)]
        for row in zip(scores, best, strict=True)
    ]
    return listings, central, messages


@pytest.mark.parametrize("each", [1, 2, 3])
def test_with_enough_exchanges_the_list_is_that_of_one_index_ties_included(each: int) -> None:
    for seed in range(10):
        listings, central, _ = played(seed, each, further=-(-MOST // each) - 1)
        for listing, expected in zip(listings, central, strict=True):
            assert listing.best == expected
            assert not listing.unsettled
            for passages in listing.returned.values():
                assert all(first.score >= second.score for first, second in pairwise(passages))
            first = sorted(-found.score for own in listing.returned.values() for found in own[:each])
            least = -first[MOST - 1] if len(first) >= MOST else -np.inf
            late = [passages for passages in listing.returned.values() if len(passages) > each]
            assert late
            assert all(passages[each - 1].score >= least for passages in late), "others are asked once"


def test_fewer_exchanges_are_exact_where_they_say_so() -> None:
    once = [played(seed, 6, further=0) for seed in range(20)]
    rows = [pair for listings, central, _ in once for pair in zip(listings, central, strict=True)]
    settled = [not listing.unsettled for listing, _ in rows]
    assert any(settled)
    assert not all(settled)
    assert all(listing.best == expected for listing, expected in rows if not listing.unsettled)
    assert any(listing.best != expected for listing, expected in rows)


def test_as_many_chunks_as_are_listed_need_one_exchange() -> None:
    listings, central, messages = played(0, MOST, further=3)
    assert messages == len(SIZES)
    assert [listing.best for listing in listings] == central


def test_a_client_that_does_not_answer_again_is_not_asked_a_third_time() -> None:
    listing = Listing(2)
    listing.add("a", [Passage("a", 0.9, 4)], 1)
    listing.add("b", [Passage("b", 0.5, 1)], 1)
    assert listing.askable == {"a": 1}, "what b has ranks after the last of the list"
    listing.failed["a"] = "it left"
    assert listing.askable == {}
    assert listing.unsettled == {"a"}


def test_rows_that_were_not_asked_are_absent_whatever_the_texts() -> None:
    index = PassageIndex(np.eye(3, dtype=np.float32), ["one", "two", "three"])
    settings = AskSettings(per_client=2, answer="snippets", snippet_bytes=16, questions=3)
    found = index.answer(np.eye(3, dtype=np.float32), settings, np.array([ABSENT, 2, 4]))
    assert found["chunks"].tolist() == [[ABSENT, ABSENT], [2, ABSENT], [ABSENT, ABSENT]]
    assert found["scores"].tolist() == [[ABSENT, ABSENT], [0, ABSENT], [ABSENT, ABSENT]]
    assert torch.count_nonzero(found["snippets"]) == len("three")
