"""Whole runs of every kind of task improve their metrics, and every algorithm, tunable and sampling runs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from fedfm import load_recipe, run
from fedfm.algorithms import ALGORITHMS, Algorithm
from fedfm.models.tunables import TUNABLES
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from tests.models.cases import small
from tests.small import small_recipe


@pytest.mark.slow
def test_vision_on_digits_improves(tmp_path: Path) -> None:
    finished = run("digits-vit", [f"output={tmp_path}", "federation.rounds=2", "runtime.processes=1"])
    assert finished.summary["final"]["accuracy"] > finished.summary["initial"]["accuracy"] + 0.3
    assert finished.summary["final"]["accuracy"] > finished.summary["baselines"]["majority"] + 0.3


@pytest.mark.slow
def test_causal_language_modelling_on_documentation_improves(tmp_path: Path) -> None:
    small = ("model.path=builtin:tiny-llama", "data.limit=200", "data.max_length=32", "local.learning_rate=0.01")
    finished = run("pydoc-llm", [f"output={tmp_path}", "federation.rounds=2", "runtime.processes=1", *small])
    assert finished.summary["metric"] == "perplexity"
    assert finished.summary["final"]["perplexity"] < 0.5 * finished.summary["initial"]["perplexity"]


NEEDED: dict[str, dict[str, Any]] = {
    "fedpm": {"tune": {"kind": "mask"}, "updates": [{"kind": "bernoulli"}]},
    "ewc": {"federation": {"stream": {"kind": "labels", "tasks": 2}}},
    "lwf": {"federation": {"stream": {"kind": "labels", "tasks": 2}}},
    "o-lora": {"federation": {"stream": {"kind": "labels", "tasks": 2}}, "tune": {"kind": "lora", "r": 8}},
}
"""What an algorithm needs beside its name."""
SAMPLINGS = ("poisson", "uniform", "weighted")
SAMPLED = [
    (name, sampling)
    for (name, kind), in_turn in zip(ALGORITHMS.items(), itertools.cycle(SAMPLINGS))
    for sampling in (SAMPLINGS if kind.client_start is not Algorithm.client_start else (in_turn,))
]
"""Each algorithm under one sampling in turn; under all, if clients keep state from the rounds that they were in."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sampling"), SAMPLED)
def test_every_algorithm_and_every_sampling_run(tmp_path: Path, name: str, sampling: str) -> None:
    federation = {"clients": 6, "per_round": 3, "rounds": 2, "sampling": sampling}
    local = {"batch_size": 5, "learning_rate": 0.01, "optimizer": "sgd", "max_grad_norm": None}
    more = dict(NEEDED.get(name, {}))
    federation |= more.pop("federation", {})
    recipe = small_recipe(tmp_path, algorithm={"name": name}, federation=federation, local=local, **more)
    assert run(load_recipe(recipe)).summary["status"] == "completed"


FOUR_TEXTS = [("a", 0), ("zzzz zzzz", 1), ("123 456 789", 0), ("Quite Other", 1)]

LEARNING = {  # learning rate, and the loss to get below in 40 steps on four texts: a guess has 0.69
    "lora": (0.01, 0.2),
    "dora": (0.01, 0.2),
    "lora-sb": (0.03, 0.2),
    "ravan": (0.03, 0.2),
    "dual-lora": (0.005, 0.3),
    "ia3": (0.03, 0.5),
    "prompt": (0.1, 0.65),
    "prefix": (0.1, 0.6),
    "vera": (0.03, 0.3),
    "fourierft": (0.03, 0.3),
    "waveft": (0.01, 0.2),
    "tinylora": (0.01, 0.2),
    "miss": (0.01, 0.2),
    "shira": (0.01, 0.3),
    "mask": (0.1, 0.6),
    "c3a": (0.03, 0.5),
    "p-tuning": (0.03, 0.65),
    "bitfit": (0.01, 0.6),
    "norms": (0.01, 0.5),
    "layers": (0.01, 0.2),
    "head": (0.1, 0.6),
    "full": (0.01, 0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in TUNABLES if kind != "attention-adapter"])  # has no texts alone
def test_every_tunable_learns_four_texts_by_heart(tmp_path: Path, kind: str) -> None:
    rate, reached = LEARNING[kind]
    local = {"batch_size": 4, "learning_rate": rate, "epochs": 20, "lr_scheduler_type": "constant"}
    alone = {"clients": 1, "per_round": 1, "rounds": 2}
    tune = small(kind).model_dump()
    recipe = small_recipe(tmp_path, tune=tune, local=local, federation=alone, evaluate={"every": 2})
    rows = [json.dumps({"text": text, "label": label}) for text, label in FOUR_TEXTS]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    experiment = build_experiment(load_recipe(recipe))
    start = {name: value.detach().clone() for name, value in experiment.tunable.parameters.items()}
    finished = run(experiment.recipe)
    assert finished.metrics.query("split == 'train'").loss.iloc[-1] < reached
    saved = load_checkpoint(RunFolder(finished.path))
    assert saved is not None
    elsewhere = {name for name in start if name.endswith("lora_s.weight") or ".personal." in name}  # 1, or the client's
    still = [name for name in start.keys() - elsewhere if (saved.state.params[name] - start[name]).abs().max() < 1e-3]
    assert not still


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
