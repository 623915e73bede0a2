"""Evaluation against a plain forward pass for each example, and the spread over clients by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch.nn.functional import cross_entropy

from fedfm.clients import spread
from fedfm.server.experiment.build import Experiment


def test_batched_evaluation_is_one_by_one_evaluation(experiment: Experiment) -> None:
    test, evaluator = experiment.data.test, experiment.evaluator
    got = dataclasses.replace(evaluator, batch_size=7)(test)
    predicted, losses = [], []
    with torch.inference_mode():
        for row in test.take(range(len(test))):
            batch = evaluator.processor.pad([row], return_tensors="pt")  # type: ignore[attr-defined]
            logits = experiment.tunable.model(**{k: v for k, v in batch.items() if k != "labels"}).logits
            predicted.append(logits.argmax(-1).item())
            losses.append(cross_entropy(logits, batch["labels"]).item())
    labels = test.labels
    assert labels is not None
    assert got["accuracy"] == accuracy_score(labels, predicted)
    assert got["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_part_is_evaluated_as_if_it_were_all(experiment: Experiment) -> None:
    test, evaluator = experiment.data.test, experiment.evaluator
    parts = [np.array([0, 3, 4]), np.array([7])]
    losses = [evaluator(test, part)["loss"] for part in parts]
    together = evaluator(test, np.concatenate(parts))["loss"]
    assert together == pytest.approx((3 * losses[0] + losses[1]) / 4, rel=1e-5)


def test_spread_by_hand() -> None:
    values = [0.1 * k for k in range(20)]
    got = spread(values, higher_is_better=True)
    assert got["mean"] == pytest.approx(0.95)
    assert got["worst_10_percent"] == pytest.approx(0.05)
    assert got["deviation"] == pytest.approx(np.std(values))
    assert spread(values, higher_is_better=False)["worst_10_percent"] == pytest.approx(1.85)
    assert spread([0.5], higher_is_better=True) == {"mean": 0.5, "worst_10_percent": 0.5, "deviation": 0.0}
