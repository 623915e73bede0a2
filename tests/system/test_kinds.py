"""A run of each kind of task whose examples have no single class: trained, measured, predicted, loaded by the card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedfm import evaluate, load_recipe, predict, run
from fedfm.errors import RecipeError
from fedfm.server.experiment.build import build_experiment
from fedfm.updates import decode_update
from tests.asked import instruction, trained
from tests.card import by_the_card
from tests.small import LABEL_OF, small_recipe, write_rows_for

TASKS: dict[str, dict[str, Any]] = {
    "multi-label": {"threshold": 0.4},
    "token-classification": {},
    "regression": {"center": 11.0, "scale": 1.0},
}


def recipe_of(kind: str, folder: Path) -> dict[str, Any]:
    values = small_recipe(folder, task={"kind": kind, **TASKS[kind]})
    for split, count, start in (("train", 60, 0), ("test", 30, 100)):
        write_rows_for(kind, folder / f"{split}.jsonl", count, start=start)
    return values


@pytest.mark.parametrize("kind", LABEL_OF)
def test_a_run_of_each_kind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(recipe_of(kind, tmp_path) | {"local": {"batch_size": 5, "learning_rate": 0.02, "epochs": 5}})
    summary, test = done.summary, str(tmp_path / "test.jsonl")
    assert summary["final"]["loss"] < summary["initial"]["loss"]
    assert summary["reloaded"]["agrees"]
    metric = summary["metric"]
    again = evaluate(done.path, test)
    assert again["metrics"][metric] == pytest.approx(summary["final"][metric])
    predicted = predict(done.path, test)
    own = by_the_card(done.path / "adapter", monkeypatch)["predict"]
    rows = [json.loads(line) for line in Path(test).read_text().splitlines()]
    texts = [row["text"] for row in rows]
    if kind == "token-classification":
        assert [own(words) for words in texts] == predicted["predicted"].tolist()
        assert predicted["label"].tolist() == [row["label"] for row in rows]
    elif kind == "multi-label":
        assert [list(found) for found in own(texts)] == predicted["predicted"].tolist()
        counts = json.loads((done.path / "clients.json").read_text())
        positives = sum(sum(client["labels"].values()) for client in counts)
        train = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        assert positives == sum(len(row["label"]) for row in train)
    else:
        np.testing.assert_allclose(np.ravel(own(texts)), predicted["predicted"], rtol=1e-4)
        error = predicted["predicted"] - [row["label"] for row in rows]
        assert summary["final"]["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert (done.path / "report.html").is_file()


@pytest.mark.parametrize("kind", LABEL_OF)
def test_clients_in_one_pass_get_what_each_gets_alone(kind: str, tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(recipe_of(kind, tmp_path) | {"runtime": {"stack": 3}}))
    worker = experiment.worker.own
    assert worker.stacking is not None
    messages = dict.fromkeys(list(worker.clients)[:3], instruction(worker.tunable.read()))
    together, alone = trained(worker, messages), trained(replace(worker, stacking=None), messages)
    for client in messages:
        found, wanted = (decode_update(answers[client]).groups["tunable"] for answers in (together, alone))
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=2e-5)


def test_a_partition_by_label_is_refused(tmp_path: Path) -> None:
    values = recipe_of("multi-label", tmp_path)
    values["federation"] = {"clients": 3, "partition": {"kind": "dirichlet", "alpha": 1.0}}
    with pytest.raises(RecipeError, match="its examples have any number of labels"):
        load_recipe(values)
