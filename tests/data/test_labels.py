"""Classes and their numbers."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import datasets
import pytest

from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source
from fedfm.errors import DataError, RecipeError

CLASSES = datasets.Features({"label": datasets.ClassLabel(names=["neg", "neutral", "pos"])})


@pytest.mark.parametrize(
    ("column", "names", "codes"),
    [
        ([10, 9, -1, 10], ("-1", "9", "10"), [2, 1, 0, 2]),
        (["b", "a", "B"], ("B", "a", "b"), [2, 1, 0]),
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        (["True", "FALSE", "true"], ("false", "true"), [1, 0, 1]),
        (["10", "9", "-1", "10"], ("-1", "9", "10"), [2, 1, 0, 2]),
        ([0.0, 1.0, 0.0], ("0", "1"), [0, 1, 0]),
        (["1.0", "1", "0"], ("0", "1"), [1, 1, 0]),
        ([Decimal("0"), Decimal("1")], ("0", "1"), [0, 1]),
        (["007", "7", "07"], ("007", "07", "7"), [0, 2, 1]),
        (["1E10", "2E5", "10000000000"], ("10000000000", "1E10", "2E5"), [1, 2, 0]),
        (["0", "1", "nan"], ("0", "1", "nan"), [0, 1, 2]),
        (["NA", "null", "None"], ("NA", "None", "null"), [0, 2, 1]),
    ],
)
def test_values_in_order(
    make_source: Callable[..., Source], column: list[object], names: tuple[str, ...], codes: list[int]
) -> None:
    source = make_source(label=column)
    labels = LabelMap.from_source(source, "label")
    assert labels.names == names
    assert len(labels) == len(names)
    assert labels.encode(source, "label").tolist() == codes
    assert labels.encode(source, "label").dtype == "int64"


def test_named_classes_keep_their_names_and_numbers_even_if_unused(make_source: Callable[..., Source]) -> None:
    source = make_source(CLASSES, label=[2, 0, 2])
    labels = LabelMap.from_source(source, "label")
    assert labels.names == ("neg", "neutral", "pos")
    assert labels.encode(source, "label").tolist() == [2, 0, 2]


def test_numbers_in_one_file_and_text_in_the_other_are_the_same_classes(make_source: Callable[..., Source]) -> None:
    labels = LabelMap.from_source(make_source(label=[0, 1]), "label")
    for test in (["1", "0"], ["1.0", "0.0"], [1.0, 0.0]):
        assert labels.encode(make_source(label=test), "label").tolist() == [1, 0]


def test_decimal_names_of_classes_can_be_listed(make_source: Callable[..., Source]) -> None:
    labels = LabelMap(("1.5", "2.0"))
    assert labels.encode(make_source(label=["2.0", "1.5"]), "label").tolist() == [1, 0]


def test_b05_a_label_that_the_training_data_lacks(make_source: Callable[..., Source]) -> None:
    labels = LabelMap.from_source(make_source(label=["cat", "dog"]), "label")
    test = make_source(label=["dog", "cat", "cow", "cat"])
    with pytest.raises(
        DataError,
        match=r"data.label: made.jsonl has the label 'cow' in row 3, which is not one of the classes: cat, dog$",
    ):
        labels.encode(test, "label")
    with pytest.raises(DataError, match="row 3"):
        labels.encode(test.select([1, 2]), "label")


def test_many_known_labels_are_not_all_listed(make_source: Callable[..., Source]) -> None:
    labels = LabelMap.from_source(make_source(label=list(range(100))), "label")
    with pytest.raises(DataError, match=r"18, 19, … \(100 in all\)$"):
        labels.encode(make_source(label=[100]), "label")


def test_hidden_test_labels_of_hub_sets(make_source: Callable[..., Source]) -> None:
    labels = LabelMap.from_source(make_source(CLASSES, label=[0, 1]), "label")
    with pytest.raises(DataError, match="does not publish its labels: row 2 has no label"):
        labels.encode(make_source(CLASSES, label=[1, -1]), "label")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0.5, 1.0], r"numbers that are not whole, such as 0\.5 in row 1; .*regression"),
        (["1", "nan", "2.25"], r"numbers that are not whole, such as 2\.25 in row 3"),
        ([1.0, float("nan")], "is empty in 1 of 2 rows"),
        ([[1], [2]], "contains List"),
        (["a", None], "is empty"),
        (["a", "", " "], "is blank in 2 of 3 rows of made.jsonl; the first is row 2"),
    ],
)
def test_what_is_no_label(make_source: Callable[..., Source], column: list[object], message: str) -> None:
    with pytest.raises((RecipeError, DataError), match=f"data.label: .*{message}"):
        LabelMap.from_source(make_source(label=column), "label")


def test_one_class_is_nothing_to_learn(make_source: Callable[..., Source]) -> None:
    with pytest.raises(RecipeError, match="has only one class, pos: classification needs two"):
        LabelMap.from_source(make_source(CLASSES, label=[2, 2]), "label")


def test_a_missing_column(make_source: Callable[..., Source]) -> None:
    with pytest.raises(RecipeError, match=r"data\.label: no column `label` in made.jsonl; columns: text"):
        LabelMap.from_source(make_source(text=["a"]), "label")
