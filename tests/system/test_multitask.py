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
    messages = [json.loads(line) for line in (done.path / "wire.jsonl").read_text().splitlines()]
    for message in messages:
        (rows,) = {tensor["shape"][0] for tensor in message["tensors"] if "classifier" in tensor["name"]}
        assert {rows} == {{"0": 2, "1": 3, "2": 1}[client] for client in message["clients"]}

    test, texts = tmp_path / "signs-test.jsonl", ["good thing 1", "bad thing 2"]
    found = evaluate(done.path, str(test), task="signs")["metrics"]
    assert found["micro_f1"] == pytest.approx(summary["final"]["micro_f1.signs"])
    sizes = predict(done.path, str(tmp_path / "size-test.jsonl"), task="size")
    error = float(np.sqrt(np.mean((sizes["predicted"] - sizes["label"]) ** 2)))
    assert error == pytest.approx(summary["final"]["rmse.size"], rel=1e-4)
    with pytest.raises(RecipeError, match=r"several tasks \(mood, signs, size\): name one of them"):
        predict(done.path, str(test))

    lines = [json.loads(line)["text"] for line in test.read_text().splitlines()]
    own = predict(done.path, str(test), task="signs")
    expected = [list(row) for row in own["predicted"]]
    of_all = by_the_card(done.path / "adapter", monkeypatch)["predict"]
    assert [list(each) for each in of_all("signs", lines)] == expected
    of_one = by_the_card(done.path / "heads" / "signs", monkeypatch)["predict"]
    assert [list(each) for each in of_one(lines)] == expected

    folder = done.path / "heads" / "mood"
    base = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=2)
    model, tokenizer = PeftModel.from_pretrained(base, folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ours = predict(done.path, str(path), task="mood")
    np.testing.assert_allclose(logits.softmax(-1).max(-1).values, ours["probability"], rtol=1e-4)
