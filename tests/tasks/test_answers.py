"""Scores of written answers against known ones."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm.tasks.answers import last_number, normalised, rouge_l, score_answers, token_f1


@pytest.mark.parametrize(
    ("written", "expected", "score"),
    [
        ("the cat sat on the mat", "the cat was on the mat", 0.8333333333333334),
        ("A quick, brown fox!", "the quick brown dog jumps", 0.4444444444444445),
        ("nothing alike", "here", 0.0),
        ("Return the sum of a list.", "Return a sorted list of the sum.", 0.4615384615384615),
        ("", "x", 0.0),
    ],
)
def test_rouge_l_is_that_of_rouge_score(written: str, expected: str, score: float) -> None:
    """Numbers of rouge-score 0.1.2 without stemming."""
    assert rouge_l(written, expected) == pytest.approx(score)


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_rouge_l_is_that_of_all_subsequences(own: list[str], other: list[str]) -> None:
    common = {part for size in range(7) for part in combinations(own, size)} & {
        part for size in range(7) for part in combinations(other, size)
    }
    longest = max(map(len, common))
    assert rouge_l(" ".join(own), " ".join(other)) == pytest.approx(2 * longest / (len(own) + len(other)))


def test_answers_are_compared_as_squad_compares_them() -> None:
    assert normalised("The  Eiffel-Tower, an icon!") == "eiffeltower icon"
    assert token_f1("the cat sat", "A cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert token_f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert [token_f1("the", "a"), token_f1("the", "x")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 3 + 4 = 7 #### 1,234.50", 1234.5), ("It is -12.", -12.0), ("2 or 3", 3.0), ("none", None), ("", None)],
)
def test_the_last_number_is_the_answer(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_means_are_over_answers_and_numbers_need_numbers() -> None:
    found = score_answers(["the cat", "12 dogs"], ["cat", "so 12"])
    assert found["exact_match"] == 0.5
    assert "number_match" not in found
    assert score_answers(["12.0", "3"], ["#### 12", "4"])["number_match"] == 0.5
