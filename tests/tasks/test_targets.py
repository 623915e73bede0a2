"""Metrics of several labels and of numbers, against scikit-learn and scipy on the same outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score, root_mean_squared_error

from fedfm.data.labels import LabelMap
from fedfm.data.settings import DataSettings
from fedfm.errors import DataError, RecipeError
from fedfm.tasks import MultiLabel, Regression

NAMES = ("a", "b", "c")


def test_metrics_of_several_labels_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(50, 3, generator=generator), torch.rand(50, 3, generator=generator) > 0.6
    task = MultiLabel(threshold=0.3)
    predicted = (logits.sigmoid() > 0.3).numpy()
    scores = task.score(task.measure(logits, {"labels": label.float()}), 0.0, NAMES)
    assert scores == {
        "micro_f1": f1_score(label, predicted, average="micro"),
        "macro_f1": f1_score(label, predicted, average="macro"),
        "exact_match": accuracy_score(label, predicted),
    }
    classes = task.per_class(task.measure(logits, {"labels": label.float()}), NAMES)["classes"]
    assert [row["f1"] for row in classes] == pytest.approx(f1_score(label, predicted, average=None))
    assert [row["examples"] for row in classes] == label.sum(0).tolist()


def test_labels_above_the_threshold_are_predicted() -> None:
    logits = torch.tensor([[0.0, 2.0, -2.0], [-9.0, -9.0, -9.0]])
    first, second = MultiLabel(threshold=0.6).answers(logits, {}, NAMES)
    assert (first["predicted"], second["predicted"]) == (["b"], [])
    assert first["probabilities"]["a"] == 0.5


def test_metrics_of_numbers_are_scikit_learns_in_the_unit_of_the_data() -> None:
    task = Regression(center=[10.0, 0.0], scale=[4.0, 0.5])
    generator = np.random.default_rng(0)
    true = generator.normal(size=(40, 2)) * [4, 0.5] + [10, 0]
    predicted = true + generator.normal(size=(40, 2))
    outputs, labels = (torch.tensor((y - [10, 0]) / [4, 0.5]) for y in (predicted, true))
    scores = task.score(task.measure(outputs, {"labels": labels}), 0.0, ("x", "y"))
    assert scores == pytest.approx(
        {
            "rmse": root_mean_squared_error(true, predicted),
            "mae": mean_absolute_error(true, predicted),
            "r2": r2_score(true, predicted),
            "pearson": np.mean([pearsonr(p, y).statistic for p, y in zip(predicted.T, true.T, strict=True)]),
            "spearman": np.mean([spearmanr(p, y).statistic for p, y in zip(predicted.T, true.T, strict=True)]),
        }
    )


def test_metrics_of_constant_numbers_are_defined() -> None:
    one = {"predicted": np.ones((1, 1)), "label": np.zeros((1, 1))}
    assert Regression().score(one, 0.0) == {"rmse": 1.0, "mae": 1.0, "r2": 0.0, "pearson": 0.0, "spearman": 0.0}


def test_targets_are_centred_and_scaled(make_source) -> None:  # type: ignore[no-untyped-def]
    data, source = DataSettings(train="", label="y"), make_source(y=["[8, 1]", "[12, 3]"])
    names = Regression().label_map(source, data)
    assert names.names == ("y.0", "y.1")
    task = Regression(center=[10.0, 1.0], scale=2.0)
    assert task.targets(source, data, names).tolist() == [[-1.0, 0.0], [1.0, 1.0]]
    with pytest.raises(RecipeError, match="has 3 values, but 2 numbers"):
        Regression(center=[1.0, 2.0, 3.0]).targets(source, data, names)
    with pytest.raises(RecipeError, match="2 numbers for each example, but 1 are named"):
        Regression().targets(source, data, LabelMap(("y",)))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["1", "x"], "'x' in row 2, not a finite number"),
        ([1.0, float("inf")], "'inf' in row 2"),
        ([1.0, None], "is empty in 1 of 2 rows"),
        (["[1, 2]", "[1]"], "has 1 numbers in row 2, and 2 in row 1"),
        (["[1, 2]", "1"], "no list of texts or numbers in row 2"),
    ],
)
def test_bad_numbers_are_refused_with_their_row(make_source, values: list[object], reason: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=reason.replace("[", r"\[")):
        Regression().label_map(make_source(y=values), DataSettings(train="", label="y"))


def test_lists_of_labels_become_ones(make_source) -> None:  # type: ignore[no-untyped-def]
    data = DataSettings(train="", label="y")
    source = make_source(y=[["b", "a"], [], ["c"]])
    names = MultiLabel().label_map(source, data)
    assert names.names == NAMES
    assert MultiLabel().targets(source, data, names).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(DataError, match="the label 'c' in row 3, which is not one of the classes: a, b"):
        MultiLabel().targets(source, data, LabelMap(("a", "b")))
