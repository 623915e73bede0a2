"""Texts that contain a control token are trained on and evaluated like any other text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedfm import run
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from tests.small import small_recipe

TEXTS = ["html: <s>old</s> <pad> price", "a text", "good </s>", "<mask> another one"]


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    recipe = small_recipe(folder, **changes)
    rows = [{"text": TEXTS[number % 4], "label": number % 2} for number in range(16)]
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe["federation"] = {"clients": 4, "per_round": 4, "rounds": 1, "partition": {"kind": "iid"}}
    return recipe


def test_t5_classifies_them(tmp_path: Path) -> None:
    """It classifies at the end token, and refuses a batch in which texts have different numbers of them."""
    finished = run(load_recipe(recipe_of(tmp_path, model={"path": "builtin:tiny-t5"})))
    assert [finished.summary["clients"][key] for key in ("contributed", "failed", "refused")] == [4, 0, 0]
    assert finished.summary["final"]["loss"] > 0


@pytest.mark.parametrize("kind", ["masked-lm", "causal-lm"])
def test_language_models_predict_them_as_text(tmp_path: Path, kind: str) -> None:
    model = {"masked-lm": "builtin:tiny-roberta", "causal-lm": "builtin:tiny-gpt2"}[kind]
    experiment = build_experiment(load_recipe(recipe_of(tmp_path, task={"kind": kind}, model={"path": model})))
    tokenizer = experiment.data.processor
    for row in experiment.data.test.take(range(len(experiment.data.test))):
        inner = row["input_ids"][1:-1]  # the frame: start, and end
        assert set(inner).isdisjoint(tokenizer.all_special_ids)  # type: ignore[union-attr]
        assert row["input_ids"][-1] == tokenizer.eos_token_id  # type: ignore[union-attr]
