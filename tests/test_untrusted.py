"""JSON from outside: within limits it is read as by `json`, beyond them there is one error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfm.untrusted import MOST_DEPTH, MOST_INTEGER, MOST_VALUES, UntrustedError, read_json

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-MOST_INTEGER, MOST_INTEGER),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(st.text(), children, max_size=4)),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_within_bounds_is_read(value: object) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        ('"\\ud800"', "not JSON"),
        ('{"\\udfff": 1}', "not JSON"),
        ("[1, 2", "not JSON"),
        ("01", "not JSON"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e999", "`1e999` is beyond the range of floats"),
        ("[-1e400]", "`-1e400` is beyond the range of floats"),
        (str(2**63), "beyond 64 bits"),
        (str(-(2**63)), "beyond 64 bits"),
        ("9" * 5_000, "beyond 64 bits"),
        ("-" + "9" * 5_000, "beyond 64 bits"),
        ('{"a": 1, "b": 2, "a": 1}', "key `a` twice"),
        ('{"x": {"\\u001b[31m": 1, "\\u001b[31m": 1}}', r"key `\\x1b\[31m` twice"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "deeper than 32"),
        ('{"a":' * (MOST_DEPTH + 1) + "1" + "}" * (MOST_DEPTH + 1), "deeper than 32"),
        ("[" * 100_000 + "]" * 100_000, "not JSON|deeper"),
        ("[" + "[]," * MOST_VALUES + "[]]", "more than 1,048,576 values"),
        ("[" + "1," * MOST_VALUES + "1]", "more than 1,048,576 values"),
    ],
)  # fmt: skip
def test_what_is_beyond_them_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(UntrustedError, match=reason):
        read_json(text)


def test_bounds_are_within() -> None:
    deep = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert json.dumps(read_json(deep)) == deep
    assert read_json(f"[{MOST_INTEGER}, {-MOST_INTEGER}, 1e308]") == [MOST_INTEGER, -MOST_INTEGER, 1e308]


@given(st.one_of(st.binary(max_size=60), st.text(st.sampled_from('[]{}",:0189eE.-+\\u nulltrueNaN'), max_size=60)))
def test_noise_is_read_as_json_reads_it_or_refused(noise: bytes | str) -> None:
    try:
        found = read_json(noise)
    except UntrustedError:
        return
    assert found == json.loads(noise)
