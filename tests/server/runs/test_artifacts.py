"""Tuned parameters belong to one model: with another model a run is neither resumed, nor exported, nor used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fedfm import Run, export, resume, run
from fedfm.errors import RecipeError
from fedfm.models import builtin
from fedfm.recipe import load_recipe
from tests.small import small_recipe

MODEL = "model"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    builtin.write_random_model("tiny-bert", folder / MODEL)
    recipe = small_recipe(folder, model={"path": str(folder / MODEL)})
    return run(load_recipe(recipe, ["federation.rounds=1", "evaluate.baselines=[]"]))


def other_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    save_file({name: weight * 0.9 for name, weight in weights.items()}, model / "model.safetensors")


def other_activation(model: Path) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "relu"}))


def other_ids(model: Path) -> None:
    file = model / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {"a": content["model"]["vocab"]["b"], "b": content["model"]["vocab"]["a"]}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_weights, "other weights"),
        (other_activation, r"other settings in config\.json"),
        (other_ids, "other tokenizer"),
    ],
)
def test_with_another_model_in_its_place_a_run_is_not_continued_or_used(
    finished: Run, change: Callable[[Path], None], words: str
) -> None:
    model, kept = finished.path.parents[1] / MODEL, finished.path.parents[1] / "kept"
    shutil.copytree(model, kept)
    before = {file: file.read_bytes() for file in finished.path.rglob("*") if file.is_file()}
    try:
        change(model)
        with pytest.raises(RecipeError, match=f"not the run that was begun: the model has {words}"):
            resume(finished.path, ["federation.rounds=2"])
        for merge in (False, True):
            with pytest.raises(RecipeError, match=rf"model\.path: .* is not the model that this run tuned: .*{words}"):
                export(finished.path, merge=merge)
        with pytest.raises(RecipeError, match="is not the model that this run tuned"):
            _ = Run(finished.path).model
        assert {file: file.read_bytes() for file in finished.path.rglob("*") if file.is_file()} == before
    finally:
        shutil.rmtree(model)
        kept.rename(model)


def test_with_its_own_model_moved_to_where_it_was_it_is_used(finished: Run) -> None:
    assert export(finished.path).is_dir()
    assert not Run(finished.path).model.training
