"""Runs in which clients train chosen layers: what crosses, what moves, what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

import fedfm
from fedfm.errors import RecipeError
from fedfm.models.builtin import write_random_model
from fedfm.randomness import torch_seed
from fedfm.recipe import load_recipe
from fedfm.server.experiment.build import build_experiment
from fedfm.server.runs import start as beginning
from fedfm.server.runs.baselines import Baselines
from fedfm.server.runs.planning import describe
from tests.small import small_recipe

LAYERS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with four blocks."""
    folder = tmp_path_factory.mktemp("model")
    write_random_model("tiny-bert", folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = LAYERS
    with torch_seed(0, "model"):
        AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _only_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines are not what is tested here."""
    monkeypatch.setattr(beginning, "baselines", lambda experiment, state: Baselines())


def values(folder: Path, model: str, select: dict[str, Any], **more: Any) -> dict[str, Any]:
    federation = {"clients": 6, "per_round": 3, "rounds": 2}
    return small_recipe(
        folder,
        model={"path": model},
        select={"kind": "layers", "budget": 1, **select},
        **{"federation": federation, **more},
    )


def lines(run: fedfm.Run, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / name).read_text().splitlines()]


def blocks(names: Any) -> set[int]:
    return {int(name.split(".layer.")[1].split(".")[0]) for name in names if ".layer." in name}


def tensors(message: dict[str, Any]) -> list[str]:
    return [tensor["name"] for tensor in message["tensors"]]


def test_only_chosen_layers_come_back_and_the_records_say_which(tmp_path: Path, model: str) -> None:
    run = fedfm.run(values(tmp_path, model, {"lam": 0.0, "budget": [1, 2]}))
    wire = lines(run, "wire.jsonl")
    measured = [line for line in lines(run, "metrics.jsonl") if line["split"] == "selection"]
    assert [line["round"] for line in measured] == [1, 2]
    for number, line in enumerate(measured, 1):
        up = [m for m in wire if (m["round"], m["direction"], m["work"]) == (number, "up", "train")]
        counts = dict.fromkeys(range(LAYERS), 0)
        for message in up:
            found = blocks(tensors(message))
            assert 1 <= len(found) <= 2
            assert "base_model.model.classifier.weight" in tensors(message)
            for block in found:
                counts[block] += 1
        assert {int(name.rpartition(".")[2]): of["clients"] for name, of in line["layers"].items()} == counts
        assert line["distinct_layers"] == sum(count > 0 for count in counts.values()) < 2 * len(up)
        assert line["budget_used"] == 1
        assert line["unselected_gradient"] >= 0
        asked = [m for m in wire if (m["round"], m["direction"], m["work"]) == (number, "up", "probe")]
        assert len(asked) == 3
        assert all(tensors(message) == ["probe/gradient"] for message in asked)
    down = [m for m in wire if m["direction"] == "down"]
    assert all(blocks(tensors(m)) == set(range(LAYERS)) for m in down)
    assert {m["work"] for m in down if "choice/tensors" in tensors(m)} == {"train"}
    clients = run.summary["clients"]
    assert (clients["failed"], clients["refused"]) == (0, 0)
    train = [line for line in lines(run, "metrics.jsonl") if line["split"] == "train"]
    assert all(line["examples"] == 30 for line in train)  # each of three clients once


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("stack", ["off", 3])
def test_what_is_not_chosen_does_not_move(tmp_path: Path, model: str, kind: str, stack: Any) -> None:
    local = {"batch_size": 5, "learning_rate": 0.01, "weight_decay": 0.1}
    recipe = values(tmp_path, model, {"strategy": "top"}, tune={"kind": kind}, local=local, runtime={"stack": stack})
    start = build_experiment(load_recipe(recipe)).start
    run = fedfm.run(recipe)
    wire = lines(run, "wire.jsonl")
    assert {message["work"] for message in wire} == {"train"}  # nothing is measured
    moved = {name for name, tensor in run.state.params.items() if not torch.equal(tensor, start[name])}
    assert blocks(moved) == {LAYERS - 1}
    assert not [name for name in moved if "embeddings" in name]
    assert [name for name in moved if "classifier" in name]


def test_a_pass_of_several_clients_trains_each_as_alone(tmp_path: Path, model: str) -> None:
    states = [
        fedfm.run(values(tmp_path, model, {"lam": 0.0}, runtime={"stack": stack}, name=f"stack-{stack}")).state.params
        for stack in ("off", 3)
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=1e-5)


def test_figures_of_a_client_are_asked_for_again_when_they_are_old(tmp_path: Path, model: str) -> None:
    everyone = {"clients": 3, "per_round": 3, "rounds": 3}
    run = fedfm.run(values(tmp_path, model, {"every": 2}, federation=everyone))
    probes = [m["round"] for m in lines(run, "wire.jsonl") if (m["direction"], m["work"]) == ("down", "probe")]
    assert probes == [1, 3]
    assert set(run.state.protocol.facts["selection"]) == {"0", "1", "2"}  # of round 3, for round 4


def test_a_run_goes_on_with_what_clients_measured(tmp_path: Path, model: str) -> None:
    local = {"batch_size": 5, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    everyone = {"clients": 3, "per_round": 3, "rounds": 3}
    select = {"every": 3, "lam": 0.0}
    straight = fedfm.run(values(tmp_path, model, select, federation=everyone, local=local, name="straight"))
    short = {**everyone, "rounds": 1}
    fedfm.run(values(tmp_path, model, select, federation=short, local=local, name="short"))
    resumed = fedfm.resume(tmp_path / "runs" / "short", ["federation.rounds=3"])
    assert all(torch.equal(tensor, straight.state.params[name]) for name, tensor in resumed.state.params.items())
    assert lines(resumed, "wire.jsonl") == lines(straight, "wire.jsonl")


@pytest.mark.parametrize("strategy", ["pro", "both"])
def test_the_plan_is_what_crosses(tmp_path: Path, model: str, strategy: str) -> None:
    recipe = values(tmp_path, model, {"strategy": strategy, "budget": 2})
    plan = describe(build_experiment(load_recipe(recipe)))["bytes"]
    found = fedfm.run(recipe).summary["bytes"]
    assert (found["down"] + found["up"]) / 2 == pytest.approx(plan["per_round"], rel=0.01)


def test_a_model_without_layers_to_choose_from_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(RecipeError, match=r"select\.kind: what `tune\.kind` trains is in 0 layers"):
        build_experiment(load_recipe(values(tmp_path, model, {}, tune={"kind": "head"})))
