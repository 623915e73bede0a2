"""Questions about Python's library, with first sentences of docstrings as answers."""

from __future__ import annotations

import pytest

from fedfm.data.builtins.questions import LONGEST, first_sentence
from fedfm.data.sources import read_source


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Return a copy. It is new.", "Return a copy."),
        ("Split at\n    spaces, e.g. words\n\nMore.", "Split at spaces, e.g."),
        ("no full stop", "no full stop"),
    ],
)
def test_first_sentences(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_answers_are_short_and_parts_are_those_of_the_documentation() -> None:
    train, test = (read_source("builtin:pydoc-questions", part, where="data.train").table for part in ("train", "test"))
    assert train.column_names == ["instruction", "output", "client"]
    assert not set(train["instruction"]) & set(test["instruction"])
    assert max(map(len, train["output"])) <= LONGEST
    both = dict(zip([*train["instruction"], *test["instruction"]], [*train["output"], *test["output"]], strict=True))
    assert both["What does str.title do?"] == str.title.__doc__.split("\n\n")[0]  # type: ignore[union-attr]
    assert len(train) > 3 * len(test) > 1000
