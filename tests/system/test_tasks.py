"""Whole runs of every kind of task improve on where they began, and every algorithm, tunable and sampling runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedfm import load_recipe, run
from fedfm.algorithms import ALGORITHMS
from fedfm.models.tunables import TUNABLES
from tests.small import small_recipe


@pytest.mark.slow
def test_vision_on_digits_improves(tmp_path: Path) -> None:
    finished = run("digits-vit", [f"output={tmp_path}"])
    assert finished.summary["final"]["accuracy"] > finished.summary["initial"]["accuracy"] + 0.3
    assert finished.summary["final"]["accuracy"] > finished.summary["baselines"]["majority"] + 0.3


@pytest.mark.slow
def test_causal_language_modelling_on_documentation_improves(tmp_path: Path) -> None:
    finished = run("pydoc-llm", [f"output={tmp_path}"])
    assert finished.summary["metric"] == "perplexity"
    assert finished.summary["final"]["perplexity"] < 0.5 * finished.summary["initial"]["perplexity"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("sampling", ["uniform", "poisson", "weighted"])
def test_every_algorithm_runs_under_every_sampling(tmp_path: Path, name: str, sampling: str) -> None:
    federation = {"clients": 6, "per_round": 3, "rounds": 2, "sampling": sampling}
    recipe = small_recipe(tmp_path, algorithm={"name": name}, federation=federation)
    assert run(load_recipe(recipe)).summary["status"] == "completed"


@pytest.mark.slow
@pytest.mark.parametrize("kind", TUNABLES)
def test_every_tunable_trains(tmp_path: Path, kind: str) -> None:
    local = {"batch_size": 20, "learning_rate": 0.01, "epochs": 10, "lr_scheduler_type": "constant"}
    alone = {"clients": 1, "per_round": 1, "rounds": 4}  # rounds of other clients would not be comparable
    finished = run(load_recipe(small_recipe(tmp_path, tune={"kind": kind}, local=local, federation=alone)))
    train = finished.metrics.query("split == 'train'").loss
    assert train.iloc[-1] < train.iloc[0]


@pytest.mark.slow
def test_baselines_and_clients_are_measured_where_asked(tmp_path: Path) -> None:
    data: dict[str, Any] = {**small_recipe(tmp_path)["data"], "client": "site"}
    recipe = small_recipe(
        tmp_path,
        data=data,
        federation={"per_round": 5, "rounds": 2, "holdout": 0.25},
        evaluate={"baselines": ["local", "pooled"]},
    )
    finished = run(load_recipe(recipe))
    summary = finished.summary
    assert set(summary["baselines"]) == {"majority", "local", "pooled"}
    assert summary["baselines"]["majority"] == 0.5
    assert summary["clients_spread"]["clients"] == 5
    per_client = finished.metrics.query("split == 'client'")
    assert sorted(per_client.client) == ["a", "b", "c", "d", "e"]
    assert per_client.accuracy.mean() == pytest.approx(summary["clients_spread"]["mean"])
    assert per_client.examples.tolist() == [3] * 5
