"""Columns that are missing, empty or of another type are refused, with their rows."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace

import datasets
import pytest

from fedfm.data.columns import client_column, clients_of, column_of, text_column
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError


def test_b03_a_missing_column_lists_those_that_there_are(make_source: Callable[..., Source]) -> None:
    source = make_source(review=["a"], label=[1])
    with pytest.raises(RecipeError, match=r"data.text: no column `text` in made.jsonl; columns: review, label"):
        text_column(source, "text", "data.text")


def test_missing_values_are_counted(make_source: Callable[..., Source]) -> None:
    source = make_source(text=["a", None, "c", None])
    with pytest.raises(DataError, match=r"column `text` is empty in 2 of 4 rows of made.jsonl; the first is row 2"):
        column_of(source, "text", "data.text")


def test_blank_texts_are_counted_and_rows_are_those_of_the_file(make_source: Callable[..., Source]) -> None:
    source = make_source(text=["a", "b", "\t \n", "d", ""])
    with pytest.raises(DataError, match=r"column `text` is blank in 2 of 3 rows of made.jsonl; the first is row 5"):
        text_column(source.select([0, 4, 2]), "text", "data.text")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "int64"),
        ([[1], [2]], "List"),
        ([datetime.datetime(2020, 1, 1)] * 2, r"timestamp\[us\]"),
        ([True, False], "bool"),
    ],
)
def test_text_must_be_text(make_source: Callable[..., Source], values: list[object], kind: str) -> None:
    with pytest.raises(RecipeError, match=f"column `text` of made.jsonl contains {kind}, not text"):
        text_column(make_source(text=values), "text", "data.text")


def test_texts_come_in_order(make_source: Callable[..., Source]) -> None:
    assert text_column(make_source(text=["a", "b", "c"]).select([2, 0]), "text", "data.text") == ["c", "a"]


def test_clients_are_named_as_text(make_source: Callable[..., Source]) -> None:
    assert client_column(make_source(c=[7, 10, 7]), "c").tolist() == ["7", "10", "7"]
    assert client_column(make_source(c=["x", "y"]), "c").tolist() == ["x", "y"]
    features = datasets.Features({"c": datasets.ClassLabel(names=["ann", "bob"])})
    assert client_column(make_source(features, c=[1, 0]), "c").tolist() == ["bob", "ann"]


def test_only_training_examples_must_name_their_client(make_source: Callable[..., Source]) -> None:
    source = make_source(text=["a"])
    with pytest.raises(RecipeError, match=r"data\.client: no column `c`"):
        clients_of(source, "c")
    for other in (replace(source, split="test"), replace(source, split="validation").select([0])):
        assert clients_of(other, "c") is None
    named = clients_of(replace(make_source(c=["x"]), split="test"), "c")
    assert named is not None
    assert named.tolist() == ["x"]
    assert clients_of(source, None) is None


def test_clients_need_a_name(make_source: Callable[..., Source]) -> None:
    with pytest.raises(DataError, match=r"data\.client: column `c` is empty in 1 of 2 rows"):
        client_column(make_source(c=["x", None]), "c")
    with pytest.raises(DataError, match=r"data\.client: column `c` is blank in 2 of 3 rows .*; the first is row 2"):
        client_column(make_source(c=["x", " ", ""]), "c")
    features = datasets.Features({"c": datasets.ClassLabel(names=["ann", "bob"])})
    with pytest.raises(DataError, match=r"data\.client: column `c` is empty in 1 of 2 rows .*; the first is row 2"):
        client_column(make_source(features, c=[1, -1]), "c")
    with pytest.raises(RecipeError, match=r"data\.client: .*float64"):
        client_column(make_source(c=[0.5, 1.0]), "c")
