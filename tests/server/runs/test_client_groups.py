"""Clients that train and clients that never do, with both weights, against plain transformers and peft."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from fedfm import run
from fedfm.errors import RecipeError
from fedfm.models.builtin import write_random_model
from fedfm.models.quiet import quiet
from fedfm.recipe import load_recipe
from fedfm.server.experiment.federated_data import prepare_data
from fedfm.server.runs.client_groups import weighted
from fedfm.server.runs.finished import Run
from fedfm.tasks import TASKS
from tests.small import small_recipe

FEDERATION = {"clients": 3, "per_round": 3, "rounds": 1, "holdout": 0.3, "unseen": 2}
GROUPS = ["trained_before", "trained", "unseen_before", "unseen"]


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    found = small_recipe(folder, model={"path": "builtin:tiny-gpt2"}, task={"kind": "causal-lm"}, federation=FEDERATION)
    rows = [{"text": f"Number {number} " * (1 + number % 5), "site": "abcdefg"[number % 7]} for number in range(40)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found | {"local": {"batch_size": 8, "learning_rate": 0.02}, "evaluate": {"at": "both"}} | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(recipe(tmp_path_factory.mktemp("groups")))


def plain_losses(finished: Run, folder: Path) -> dict[str, list[tuple[float, int]]]:
    """Group → summed loss and predicted tokens of each of its clients."""
    write_random_model("tiny-gpt2", folder)
    with quiet():
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(finished.folder.adapter))
    plain.eval()
    training = prepare_data(load_recipe(finished.folder.recipe)).training
    assert training is not None
    split, found = training.federation, {}
    for group, sets in (("trained", split.holdout), ("unseen", split.unseen)):
        found[group] = []
        for indices in sets.values():
            total, count = 0.0, 0
            for row in training.train.take(indices):
                ids = torch.as_tensor(np.asarray(row["input_ids"], dtype=np.int64))[None]
                with torch.inference_mode():
                    logits = plain(input_ids=ids).logits[0, :-1]
                total += cross_entropy(logits, ids[0, 1:], reduction="sum").item()
                count += ids.shape[1] - 1
            found[group].append((total, count))
    return found


def test_both_weights_are_those_of_plain_transformers(finished: Run, tmp_path: Path) -> None:
    groups = finished.summary["client_groups"]
    assert list(groups) == GROUPS
    for group, clients in plain_losses(finished, tmp_path / "base").items():
        figures = groups[group]
        assert (figures["clients"], figures["predictions"]) == (len(clients), sum(count for _, count in clients))
        by_token = math.exp(sum(total for total, _ in clients) / figures["predictions"])
        by_client = np.mean([math.exp(total / count) for total, count in clients])
        assert figures["by_predictions"]["perplexity"] == pytest.approx(by_token, rel=1e-4)
        assert figures["by_clients"]["perplexity"] == pytest.approx(by_client, rel=1e-4)
        assert figures["by_predictions"]["perplexity"] < groups[f"{group}_before"]["by_predictions"]["perplexity"]


def test_unseen_clients_neither_train_nor_are_counted(finished: Run) -> None:
    training = prepare_data(finished.recipe).training  # of the resolved recipe: the same clients are drawn again
    assert training is not None
    split = training.federation
    assert (len(split.train), len(split.unseen)) == (3, 2)
    assert finished.recipe.federation.clients == finished.summary["clients"]["total"] == 3
    asked = {line["client"] for line in map(json.loads, finished.folder.costs.read_text().splitlines())}
    assert asked == split.train.keys()
    rows = finished.metrics
    assert set(rows[rows.split == "unseen"].client) == split.unseen.keys()
    everyone = np.concatenate([*split.unseen.values(), *split.train.values(), *split.holdout.values()])
    assert len(set(everyone.tolist())) == len(everyone) == len(training.train)
    assert "that never train" in finished.folder.report.read_text()


def test_natural_clients_are_drawn_once_for_all(tmp_path: Path) -> None:
    given = recipe(tmp_path)
    given |= {
        "data": {**given["data"], "client": "site"},
        "federation": {**FEDERATION, "clients": None, "per_round": None},
    }
    first = prepare_data(load_recipe(given))
    again = prepare_data(first.recipe)
    assert first.training is not None
    assert again.training is not None
    assert first.recipe.federation.clients == 5
    assert sorted(first.training.federation.unseen) == sorted(again.training.federation.unseen)
    too_many = {**given, "federation": {**given["federation"], "unseen": 7}}
    with pytest.raises(RecipeError, match="names 7 clients"):
        prepare_data(load_recipe(too_many))


def test_weights_by_hand() -> None:
    rows = [
        {"loss": 1.0, "perplexity": math.e, "token_accuracy": 0.5, "examples": 9, "predictions": 30},
        {"loss": 3.0, "perplexity": math.e**3, "token_accuracy": 0.0, "examples": 1, "predictions": 10},
        {"loss": None, "perplexity": None, "token_accuracy": 0.2, "examples": 1, "predictions": 10},
    ]
    found = weighted(rows, ("loss", "perplexity", "token_accuracy"), TASKS["causal-lm"]())
    assert found["by_predictions"] == pytest.approx({"loss": 1.5, "perplexity": math.e**1.5, "token_accuracy": 0.34})
    mean = (math.e + math.e**3) / 2
    assert found["by_clients"] == pytest.approx({"loss": 2.0, "perplexity": mean, "token_accuracy": 0.7 / 3})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate": {"clients": 0}}, "federation.unseen are not evaluated"),
        ({"federation": {**FEDERATION, "label_groups": 2}}, "in no group"),
        ({"data": {"train": "sites", "test": "builtin:pydoc"}}, "federation.unseen"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    kind = {"task": {"kind": "text-classification"}, "model": {"path": "builtin:tiny-bert"}}
    with pytest.raises(RecipeError, match=says):
        load_recipe(recipe(tmp_path, **changes, **kind))
