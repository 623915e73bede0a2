"""A run whose data was given from Python: in processes, and resumed from its folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fedfm import resume, run
from fedfm.errors import RecipeError
from tests.small import small_recipe


def test_a_run_on_data_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the run that files of the same content give, and is resumed as long as the data is at hand."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEDFM_CACHE", str(cache))
    recipe = small_recipe(tmp_path, federation={"clients": 3, "per_round": 2, "rounds": 1})
    data = {split: pd.read_json(tmp_path / f"{split}.jsonl", lines=True) for split in ("train", "test")}
    recipe["runtime"] = {"kind": "local", "processes": 2}
    del recipe["data"]["train"]
    frames = run(recipe, ["name=frames"], data=data)
    files = run(recipe, ["name=files", f"data.train={tmp_path}/train.jsonl", f"data.test={tmp_path}/test.jsonl"])
    assert frames.summary["final"] == files.summary["final"]
    assert frames.recipe.data.train.startswith("memory:")

    assert resume(frames.path, ["federation.rounds=2"]).summary["rounds"] == 2
    shutil.rmtree(cache)
    with pytest.raises(RecipeError, match=r"data\.train: the data was passed from Python.*resume\(…, data=…\)"):
        resume(frames.path, ["federation.rounds=3"])
    other = data | {"train": data["train"][:-1]}
    with pytest.raises(RecipeError, match=r"data\.train: memory:\w+ → memory:\w+ would make it a different run"):
        resume(frames.path, ["federation.rounds=3"], data=other)
    assert resume(frames.path, ["federation.rounds=3"], data=data).summary["rounds"] == 3
