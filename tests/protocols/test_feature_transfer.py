"""Feature transfer against scikit-learn, against its limits, and in a whole private run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from fedfm import run
from fedfm.clients.readout import feature_size, features_of, featuring, fit_readout, readout_of
from fedfm.clients.work.moments import FORMS, MEAN, SHARE, SQUARE, Form, moments_of
from fedfm.errors import RecipeError
from fedfm.protocols.feature_transfer import sampled
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from tests.small import small_recipe


def blobs(count: int = 300, size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes that overlap, with unlike spreads."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    centres, spread = 2 * rng.standard_normal((3, size)), np.array([0.5, 1.0, 2.0])
    return centres[labels] + spread[labels, None] * rng.standard_normal((count, size)) + 7.0, labels


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    federation = {"clients": 6, "per_round": 6, "rounds": 1}
    runtime = {"kind": "local", "processes": 1, "threads": 1}
    values = {"tune": {"kind": "head"}, "protocol": {"kind": "feature-transfer", "samples": 400}, "runtime": runtime}
    return small_recipe(folder, **{"federation": federation, **values, **changes})


def test_the_readout_is_scikit_learn_s_logistic_regression() -> None:
    features, labels = blobs()
    ridge = 1e-2
    weight, bias = fit_readout(torch.from_numpy(features), torch.from_numpy(labels), 3, ridge)
    centre = features.mean(0)
    scale = math.sqrt(((features - centre) ** 2).mean())
    other = LogisticRegression(C=1 / (ridge * len(labels)), tol=1e-10, max_iter=10_000)
    other.fit((features - centre) / scale, labels)
    np.testing.assert_allclose(weight.numpy() * scale, other.coef_, atol=2e-4)
    expected = other.predict_proba((features - centre) / scale)
    found = torch.softmax(torch.from_numpy(features) @ weight.T + bias, dim=-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_the_moments_of_the_features_however_these_are_split(form: Form) -> None:
    features, labels = blobs()
    whole = moments_of(features, labels, 4, form)  # of the fourth class, no client has an example
    parts = [np.flatnonzero(labels == 0)[:40], np.setdiff1d(np.arange(300), np.flatnonzero(labels == 0)[:40])]
    added = {
        name: sum(len(part) * moments_of(features[part], labels[part], 4, form)[name] for part in parts)
        for name in whole
    }
    for name, tensor in whole.items():
        torch.testing.assert_close(added[name] / 300, tensor, atol=1e-5, rtol=1e-5)
    drawn, classes = sampled(added, 90_000, np.random.default_rng(1))
    assert np.bincount(classes, minlength=4)[3] == 0
    np.testing.assert_allclose(np.bincount(classes) / len(classes), np.bincount(labels) / 300, atol=1e-4)
    within = features - np.stack([features[labels == c].mean(0) for c in range(3)])[labels]
    for c in range(3):
        mine = drawn[classes == c].numpy()
        np.testing.assert_allclose(mine.mean(0), features[labels == c].mean(0), atol=0.06)
        spread = {"diagonal": within[labels == c].std(0), "tied": within.std(0), "spherical": within.std()}[form]
        np.testing.assert_allclose(mine.std(0), np.broadcast_to(spread, 5), rtol=0.03)


def test_noise_that_drowns_a_class_leaves_finite_samples() -> None:
    moments = {SHARE: torch.tensor([-0.4, 0.9, 0.1]), MEAN: torch.ones(3, 2), SQUARE: torch.tensor([-1.0])}
    features, labels = sampled(moments, 100, np.random.default_rng(0), noisy=True)
    assert bool(torch.isfinite(features).all())
    assert set(labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("model", ["tiny-roberta", "tiny-llama"])
def test_logits_are_the_readout_of_the_features(model: str, tmp_path: Path) -> None:
    """A head of two layers, and a decoder that reads its last token."""
    experiment = build_experiment(load_recipe(recipe(tmp_path, model={"path": f"builtin:{model}"})))
    tunable, test = experiment.tunable, experiment.data.test
    features, readout = features_of(experiment.evaluator, test), readout_of(tunable)
    params = tunable.read()
    logits = features @ params[readout.weight].numpy().T
    if readout.bias is not None:
        logits = logits + params[readout.bias].numpy()
    np.testing.assert_allclose(logits, experiment.evaluator.logits(test), atol=1e-5)
    assert features.shape[1] == feature_size(experiment.contract.spec, 2)
    with pytest.raises(ZeroDivisionError), featuring(tunable):
        raise ZeroDivisionError
    np.testing.assert_allclose(experiment.evaluator.logits(test), logits, atol=1e-5)


def test_one_private_round_spends_what_one_gaussian_release_does(tmp_path: Path) -> None:
    privacy = {"kind": "central", "noise_multiplier": 1.5, "delta": 1e-2, "clip": 1.5}
    protocol = {"kind": "feature-transfer", "samples": 400, "covariance": "spherical"}
    finished = run(recipe(tmp_path, privacy=privacy, protocol=protocol))
    assert finished.summary["privacy"]["epsilon"] == pytest.approx(gaussian_epsilon(1.5, 1e-2), abs=1e-3)
    assert np.isfinite(finished.summary["final"]["loss"])


def gaussian_epsilon(z: float, delta: float) -> float:
    """ε of one Gaussian release, Balle and Wang, arXiv:1805.06530, Theorem 8."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * z), epsilon * z
        return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta)

    return float(brentq(excess, 0.0, 50.0))


def test_it_needs_a_head_and_classes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the head alone"):
        load_recipe(recipe(tmp_path, tune={"kind": "lora"}))
