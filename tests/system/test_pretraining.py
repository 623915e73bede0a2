"""Pre-training: phases that alternate, what crosses the wire, and what a run says of a model without pretraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedfm import run
from fedfm.errors import RecipeError
from fedfm.params import add
from fedfm.recipe import load_recipe
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from tests.small import small_recipe


def causal(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    recipe = small_recipe(folder)
    return {
        **recipe,
        "name": name,
        "model": {"path": "builtin:tiny-llama", "init": "random"},
        "task": {"kind": "causal-lm"},
        "data": {**recipe["data"], "root": recipe["data"]["test"]},
        "federation": {"clients": 2, "rounds": 1},
        "local": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.01, "lr_scheduler_interval": "step"},
        "tune": {"kind": "full"},
        "algorithm": {"name": "diloco"},
        **changes,
    }


def test_the_server_trains_on_its_own_data_after_a_round(tmp_path: Path) -> None:
    plain, alternating = (
        run(causal(tmp_path, name, protocol={"kind": "star", "server_steps": steps}))
        for name, steps in (("plain", 0), ("alternating", 3))
    )
    before, after = (load_checkpoint(RunFolder(finished.path)) for finished in (plain, alternating))
    assert before is not None
    assert after is not None
    recipe = load_recipe(causal(tmp_path, "again", protocol={"kind": "star", "server_steps": 3}))
    learned = build_experiment(recipe).root_update(before.state.params, 1, 0.0, steps=3)
    expected = add(before.state.params, learned)
    assert all(after.state.params[name].equal(tensor) for name, tensor in expected.items())
    assert any(tensor.any() for tensor in learned.values())
    assert plain.summary["bytes"] == alternating.summary["bytes"]
    assert any("not pretrained" in warning for warning in plain.summary["warnings"])
    assert "not pretrained" in (plain.path / "model" / "README.md").read_text(encoding="utf-8")


def test_the_servers_steps_need_data_and_the_whole_model(tmp_path: Path) -> None:
    values = causal(tmp_path, "refused", protocol={"kind": "star", "server_steps": 3})
    without = {**values, "data": {key: value for key, value in values["data"].items() if key != "root"}}
    with pytest.raises(RecipeError, match="need examples, such as public texts"):
        load_recipe(without)
    with pytest.raises(RecipeError, match=r"protocol\.server_steps"):
        load_recipe({**values, "tune": {"kind": "lora"}, "model": {"path": "builtin:tiny-llama"}})


def test_sparse_updates_are_a_fiftieth_of_whole_ones(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"thing {number} of many"}) + "\n" for number in range(40)))
    changes = [f"data.train={texts}", f"data.test={texts}", "model.init=random"]
    up = {}
    for name in ("pretrain", "pretrain-sparse"):
        experiment = build_experiment(load_recipe(name, changes))
        client = next(iter(experiment.data.clients))
        _, up[name] = experiment.message_bytes(client, 1)
    assert up["pretrain"] / up["pretrain-sparse"] > 50
