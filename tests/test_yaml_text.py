from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from fedfm.yaml_text import YamlError, parse, render

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
PLAIN_DATA = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),  # YAML 1.1: text
        ("5.0E+3", 5000.0),
        (".5", 0.5),
        ("-3", -3),
        ("0", 0),
        ("0x1f", 31),
        ("0o17", 15),
        ("no", "no"),  # YAML 1.1: false
        ("on", "on"),
        ("yes", "yes"),
        ("0123", "0123"),  # YAML 1.1: 83
        ("0123456", "0123456"),  # the beginning of a commit's name
        ("12:30:00", "12:30:00"),  # YAML 1.1: 45000
        ("1_000", "1_000"),  # YAML 1.1: 1000
        ("2024-01-31", "2024-01-31"),  # YAML 1.1: a date
        ("=", "="),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("1.2.3", "1.2.3"),
        ("hf:glue/sst2", "hf:glue/sst2"),
    ],
)
def test_b02_words_mean_what_they_look_like(text: str, value: Any) -> None:
    assert parse(f"key: {text}") == {"key": value}
    assert type(parse(text)) is type(value)


def test_infinity_and_nan_are_numbers() -> None:
    assert parse("[.inf, -.inf, .NaN]")[:2] == [math.inf, -math.inf]
    assert math.isnan(parse(".nan"))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "`a` is given twice, first in line 1"),
        ("x:\n  r: 1\n  r: 2\n", 3, "`r` is given twice, first in line 2"),
        ("a: 1\nb: [1, 2\n", 3, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "a tab is used where only spaces are allowed"),
        ("a: b: c\n", 1, "mapping values are not allowed here"),
        ("a: &x 1\nb: *x\n", 1, "anchors and aliases"),
        ("b: *x\n", 1, "anchors and aliases"),
        ("1: a\n", 1, "a key must be text"),
        ("? [a]\n: 1\n", 1, "a key must be text"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, "`!!python/object/apply:os.getcwd` is not allowed here"),
        ("a: 1\n---\nb: 2\n", 2, "but found another document"),
        ("a: \x00\n", None, "special characters are not allowed"),
        ("[" * 20000, 1, "nested too deeply"),
        ("a:\n  " + "{a: " * 40 + "1" + "}" * 40, 2, "nested too deeply"),
        ("a: 1\nb: !!int x\n", 2, "`x` is not a number"),
        ("!!float 1_0", 1, "`1_0` is not a number"),
        ("!!bool maybe", 1, "neither true nor false"),
        ("!!null x", 1, "is not null"),
        ("a: !!timestamp x", 1, "`!!timestamp` is not allowed here"),
        ("!!binary x", 1, "`!!binary` is not allowed here"),
        ("!!set {a}", 1, "`!!set` is not allowed here"),
        ("!!omap [a: 1]", 1, "`!!omap` is not allowed here"),
        ("!!map [a]", 1, "`!!map` is not allowed here"),
        ("!!int [1]", 1, "`!!int` is not allowed here"),
        ("!!seq 1", 1, "`!!seq` is not allowed here"),
        ("!mine 1", 1, "`!mine` is not allowed here"),
        ("a: " + "9" * 5000, 1, "a number of 5000 characters"),
        ("a: 0x" + "f" * 5000, 1, "a number of 5002 characters"),
        ('a: "b\\0c"', 1, "NUL"),
        ('a: "\\ud800"', 1, "surrogate"),
    ],
)
def test_what_is_refused_says_where(text: str, line: int | None, message: str) -> None:
    with pytest.raises(YamlError, match=message.replace("[", r"\[")) as caught:
        parse(text)
    assert caught.value.line == line


def test_a_few_lines_cannot_stand_for_gigabytes() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{after}: &{after} [{', '.join(['*' + before] * 9)}]\n"
        for before, after in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(YamlError, match="anchors"):
        parse(bomb)


@given(PLAIN_DATA, st.booleans())
@example("1e-5", False)
@example("0o17", True)
@example({"no": "yes", "null": "~"}, False)
@example([1e-05, 1e22, 5e-324, 0.1], False)
@example("", False)
def test_what_is_written_reads_back_equal(data: Any, flow: bool) -> None:
    assert json.dumps(parse(render(data, flow=flow))) == json.dumps(data)


@given(PLAIN_DATA)
def test_what_is_written_reads_alike_in_yaml_1_1(data: Any) -> None:
    assert yaml.safe_load(render(data)) == data
