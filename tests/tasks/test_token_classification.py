"""Spans against known answers of seqeval 1.2.2, and words against the tokens that carry their tags."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedfm.data.examples import IGNORED
from fedfm.tasks import TokenClassification
from fedfm.tasks.base import Measured
from fedfm.tasks.spans import Tags

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TRUE = [["O", "B-PER", "I-PER", "O", "B-LOC"], ["I-LOC", "I-LOC", "B-LOC", "O"], ["B-PER", "I-LOC", "O"]]
FOUND = [["O", "B-PER", "I-PER", "O", "O"], ["B-LOC", "I-LOC", "I-LOC", "O"], ["B-PER", "I-PER", "O"]]


def measured(found: list[list[str]], true: list[list[str]], names: tuple[str, ...] = NAMES) -> Measured:
    def ids(texts: list[list[str]]) -> np.ndarray:
        return np.array([names.index(tag) for tags in texts for tag in tags])

    first = np.array([place == 0 for tags in true for place in range(len(tags))])
    return {"predicted": ids(found), "label": ids(true), "first": first}


def test_spans_are_scored_as_by_seqeval() -> None:
    scores = TokenClassification().score(measured(FOUND, TRUE), 0.0, NAMES)
    assert scores == pytest.approx({"precision": 1 / 3, "recall": 1 / 6, "f1": 2 / 9, "token_accuracy": 8 / 12})
    loc, per = TokenClassification().per_class(measured(FOUND, TRUE), NAMES)["classes"]
    assert loc == {"label": "LOC", "precision": 0.0, "recall": 0.0, "f1": 0.0, "examples": 4}
    assert per == {"label": "PER", "precision": 0.5, "recall": 0.5, "f1": 0.5, "examples": 2}


def test_a_span_ends_with_its_text() -> None:
    tags = Tags.of(NAMES)
    inside = np.array([1, 2, 2, 2])
    assert tags.spans(inside, np.array([True, False, False, False])).tolist() == [[1, 0, 3]]
    assert tags.spans(inside, np.array([True, False, True, False])).tolist() == [[1, 0, 1], [1, 2, 3]]


def test_spans_of_single_words_and_ends() -> None:
    tags = Tags.of(["O", "B-A", "I-A", "E-A", "S-A"])
    assert tags.spans(np.array([4, 1, 3, 2, 3]), np.eye(1, 5, dtype=bool)[0]).tolist() == [
        [0, 0, 0],
        [0, 1, 2],
        [0, 3, 4],
    ]


def test_tags_without_spans_are_scored_word_by_word() -> None:
    names = ("NOUN", "VERB")
    scores = TokenClassification().score(
        measured([["NOUN", "NOUN"], ["VERB"]], [["NOUN", "VERB"], ["VERB"]], names), 0.0, names
    )
    assert scores["f1"] == scores["token_accuracy"] == pytest.approx(2 / 3)


def test_scores_without_any_span_are_defined() -> None:
    nothing = [["O", "O"]]
    scores = TokenClassification().score(measured(nothing, nothing), 0.0, NAMES)
    assert scores == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "token_accuracy": 1.0}


def test_answers_are_in_the_order_of_words() -> None:
    batch = {"labels": torch.tensor([[IGNORED, 0, IGNORED, 2], [IGNORED, 0, 1, IGNORED]])}
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 0, 3], [0, 0, 2, 0]]), 5).float()
    assert TokenClassification().answers(logits, batch, NAMES) == [
        {"predicted": ["B-PER", None, "B-LOC"]},
        {"predicted": ["O", "I-PER"]},
    ]


def test_whole_numbers_are_places_of_named_tags() -> None:
    assert TokenClassification().named(["O", "B-X"]).aliases == {"0": "O", "1": "B-X"}
    assert not TokenClassification().named(["1", "0"]).aliases
