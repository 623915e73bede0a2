"""Reading a finished run from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedfm import Run, build_experiment, run
from fedfm.errors import RecipeError
from fedfm.records.folder import RunFolder
from tests.small import small_recipe


def test_the_state_of_a_run_is_that_of_its_adapter(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, federation={"clients": 2, "rounds": 1, "per_round": 2}, tune={"kind": "lora"})
    finished = run(recipe)
    saved = load_file(finished.path / "adapter" / "adapter_model.safetensors")
    state = finished.state
    assert state.round == 1
    assert sum(state.steps) == 12  # 60 examples in batches of 5
    experiment = build_experiment(finished.recipe)
    experiment.plug_in(state.params)
    assert experiment.evaluator(experiment.data.test) == finished.summary["final"]
    assert saved.keys() == state.params.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.params.items())


def test_a_run_without_a_checkpoint_has_no_state(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").write_text(tmp_path / "run" / "recipe.yaml", "name: run\n")
    with pytest.raises(RecipeError, match="has no checkpoint; start a new run"):
        _ = Run(tmp_path / "run").state
