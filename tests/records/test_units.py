"""Numbers in readable units."""

from __future__ import annotations

import math

import pytest

from fedfm.records import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (49_500, "49.5 kB"),
        (999_600, "1.00 MB"),
        (90_852_864, "90.9 MB"),
        (3.2e9, "3.20 GB"),
        (7e12, "7.00 TB"),
        (7e15, "7000 TB"),
    ],
)
def test_bytes(value: float, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (8.26, "8.3 s"),
        (9.97, "10 s"),
        (59.97, "1 min"),
        (252, "4 min 12 s"),
        (3599.6, "1 h"),
        (3600 * 3 + 299, "3 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (76_808, "76,808"), (22_713_216, "22.7 M"), (7e9, "7.00 B"), (999_999, "999,999")]
)
def test_counts(value: float, text: str) -> None:
    assert units.number(value) == text


def test_shares() -> None:
    assert units.share(76_808, 22_713_216) == "0.338 %"
    assert units.share(1, 1) == "100 %"
    assert units.share(0, 5) == "0 %"
    assert units.share(1, 0) == "–"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.8714, "87.1 %"),
        ("token_accuracy", 0.05, "5.0 %"),
        ("matthews", -0.0314, "−0.031"),
        ("perplexity", 52.38, "52.4"),
        ("perplexity", 0.0, "0"),
        ("loss", 0.93149, "0.931"),
        ("accuracy", None, "–"),
        ("loss", math.nan, "–"),
        ("perplexity", math.inf, "–"),
    ],
)
def test_metrics(name: str, value: float | None, text: str) -> None:
    assert units.metric(name, value) == text


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        ("accuracy", 0.502, 0.871, "+36.9 points"),
        ("accuracy", 0.5, 0.4, "−10.0 points"),
        ("loss", 1.9, 0.9, "−1.000"),
        ("perplexity", 1000, 50, "−95.0 %"),
        ("accuracy", None, 0.5, "–"),
        ("perplexity", math.inf, 50, "–"),
    ],
)
def test_changes(name: str, before: float | None, after: float, text: str) -> None:
    assert units.metric_change(name, before, after) == text


def test_metrics_have_names_for_sentences() -> None:
    assert units.metric_name("macro_f1") == "macro-F1"
    assert units.metric_name("token_accuracy") == "token accuracy"
