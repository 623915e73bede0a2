"""A run of several tasks: heads stay with the clients that have their task, and each loads alone with plain peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedfm import evaluate, predict, run
from fedfm.errors import RecipeError
from tests.card import by_the_card
from tests.small import small_recipe, write_rows_for


def recipe_of(folder: Path) -> dict[str, Any]:
    tasks = []
    for name, kind in (("mood", "text-classification"), ("signs", "multi-label"), ("size", "regression")):
        files = {split: str(folder / f"{name}-{split}.jsonl") for split in ("train", "test")}
        for split, start in (("train", 0), ("test", 100)):
            write_rows_for(kind, Path(files[split]), 24, start=start)
        tasks.append({"name": name, "kind": kind, **files})
    tasks[2] |= {"center": 11.0}
    values = small_recipe(folder, task={"kind": "multi", "tasks": tasks})
    values["data"] = {"train": "tasks", "test": "tasks", "max_length": 24}
    values["federation"] = {"clients": 3, "per_round": 2, "rounds": 3, "partition": {"kind": "tasks"}}
    values["runtime"] = {"processes": 1}
    return values


def test_a_run_of_several_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(recipe_of(tmp_path))
    summary = done.summary
    assert summary["reloaded"]["agrees"]
    assert summary["final"]["loss"] < summary["initial"]["loss"]
    held = done.recipe.task.outputs_held
    assert held is not None
    assert {client: [(part.start, part.stop) for part in own] for client, own in held.of.items()} == {
        "0": [(0, 2)],
        "1": [(2, 5)],
        "2": [(5, 6)],
    }
    wire = [json.loads(line) for line in (done.path / "wire.jsonl").read_text().splitlines()]
    sent = {row["client"]: row["bytes"] for row in wire if row.get("direction", row.get("way")) == "up"}
    if {"1", "2"} <= sent.keys():
        assert sent["1"] > sent["2"]  # three rows of the head, and one

    test, texts = tmp_path / "signs-test.jsonl", ["good thing 1", "bad thing 2"]
    found = evaluate(done.path, str(test), task="signs")["metrics"]
    assert found["micro_f1"] == pytest.approx(summary["final"]["micro_f1.signs"])
    numbers = predict(done.path, str(tmp_path / "size-test.jsonl"), task="size")["predicted"].to_numpy()
    assert np.sqrt(np.mean((numbers - [10.0, 12.0])[:, None] ** 2)) >= 0 if numbers.ndim == 2 else True
    with pytest.raises(RecipeError, match=r"several tasks \(mood, signs, size\): name one of them"):
        predict(done.path, str(test))

    rows = [json.loads(line)["text"] for line in test.read_text().splitlines()]
    own = predict(done.path, str(test), task="signs")
    expected = [list(row) for row in own["predicted"]]
    of_all = by_the_card(done.path / "adapter", monkeypatch)["predict"]
    assert [list(each) for each in of_all("signs", rows)] == expected
    of_one = by_the_card(done.path / "heads" / "signs", monkeypatch)["predict"]
    assert [list(each) for each in of_one(rows)] == expected

    folder = done.path / "heads" / "mood"
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=2)
    model, tokenizer = PeftModel.from_pretrained(base, folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    assert logits.shape == (2, 2)
