"""Text from outside is shown on one line, in one direction, and cut to a length."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm.printable import LINE, in_json, line, lines, quoted

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n2026-01-01 INFO all is well\x00\u202egnp.exe\u2066\ud800\u200b\ufeff[red]"
JOINERS = "\u200c\u200d"
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(HOSTILE)), max_size=2 * LINE)


def unsafe(text: str) -> set[str]:
    """Controls, formats that hide or reorder, separators of lines, and lone surrogates."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {each for each in text if unicodedata.category(each) in kinds and each not in JOINERS}


@given(TEXTS)
def test_a_line_is_one_and_safe_and_stays_as_it_is(text: str) -> None:
    shown = line(text)
    assert len(shown) <= LINE
    assert not unsafe(shown) & set(HOSTILE)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert line(shown) == shown


@given(TEXTS)
def test_of_lines_only_newlines_and_tabs_stay(text: str) -> None:
    shown = lines(text, most=200)
    assert len(shown) <= 200
    assert unsafe(shown) & set(HOSTILE) <= {"\n"}
    assert lines(shown, most=200) == shown


@given(TEXTS)
def test_json_is_read_as_the_same_and_holds_nothing_unsafe(text: str) -> None:
    shown = in_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(shown) == {text: [text]}
    assert not unsafe(shown) & set(HOSTILE)


@pytest.mark.parametrize("text", ["Ärzte in Köln", "می‌خواهم", "क्‍ष", "👩‍⚕️", "日本語", "a\\b `c` [d] <e>"])
def test_words_stay_as_they_are(text: str) -> None:
    assert line(text) == lines(text) == in_json(text) == text


def test_what_is_cut_says_how_long_it_was() -> None:
    assert line("x" * 12_345) == "x" * (LINE - 21) + "… (12,345 characters)"
    assert lines("a" * 9_000 + "the end").endswith("the end")
    assert quoted("\x1b[31m" * 99, most=40) == "`\\x1b[31m\\x1b[31m\\x1b[3… (495 characters)`"
