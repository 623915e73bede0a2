"""Tripwires with planted faults: what did not move, what changed although frozen, what was not loaded or written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

import fedfm
from fedfm.algorithms.base import Aggregate, Algorithm, ServerState
from fedfm.errors import DataError, TooFewClientsError, TripwireError
from fedfm.models.backbones import Backbone, refuse_lost_values
from fedfm.models.tunable import Tunable
from fedfm.models.tunables.lora import LowRank
from fedfm.params import Params
from fedfm.protocols import State
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.state import RunState
from fedfm.server.tripwires import TRIPWIRES
from fedfm.server.tripwires.frozen import Frozen
from fedfm.server.tripwires.moved import Moved
from fedfm.server.tripwires.reloaded import Reload
from tests.small import small_recipe


class Still(Algorithm):
    """A server that learns nothing, like one with a learning rate of 0."""

    name: Literal["still"] = "still"

    def server_step(self, params: Params, aggregate: Aggregate, state: ServerState) -> tuple[Params, ServerState]:
        return params, state


class Leaking(LowRank):
    """LoRA whose forward pass changes a frozen matrix."""

    stackable: ClassVar[bool] = False

    kind: Literal["leaking"] = "leaking"

    def attach(self, backbone: Backbone, *, task_type: str | None, seed: int) -> Tunable:
        tunable = self.attach_low_rank(backbone, task_type=task_type, seed=seed, use_dora=False)
        weight = tunable.base_model.get_input_embeddings().weight

        def leak(module: nn.Module, *_: Any) -> None:
            if torch.is_grad_enabled():
                weight.data[0, 0] += 1e-3

        tunable.model.register_forward_hook(leak)
        return tunable


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    return small_recipe(folder, **{"federation": {"clients": 2, "per_round": 2, "rounds": 2}, **changes})


def checks(folder: Path) -> dict[str, Any]:
    return {event["check"]: event for event in jsonl.records(folder / "events.jsonl") if event["kind"] == "check"}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build_experiment(load_recipe(recipe(tmp_path_factory.mktemp("sound"))))


def test_a_sound_run_has_a_line_of_each(tmp_path: Path) -> None:
    found = checks(fedfm.run(recipe(tmp_path)).path)
    assert list(found) == list(TRIPWIRES)
    assert {event["sound"] for event in found.values()} == {True}
    assert [event["round"] for event in found.values()] == [0, 1, 2, 2]
    assert "`classifier.weight`" in found["loaded"]["reason"]


def test_a_run_in_which_nothing_moves_ends_and_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(TripwireError, match="none of the 18 tensors that `tune` trains has moved") as caught:
        fedfm.run(recipe(tmp_path), algorithm=Still())
    assert caught.value.exit_code == 7
    folder = tmp_path / "runs" / "small"
    assert checks(folder)["moved"]["sound"] is False
    assert jsonl.read(folder / "summary.json")["status"] == "failed"
    with pytest.raises(TripwireError, match="this run cannot be continued: after round 2 none of the 18"):
        fedfm.resume(folder)


def test_factors_that_are_still_zero_are_named(experiment: Experiment) -> None:
    """https://github.com/huggingface/peft/issues/1402: the head trained, and every `lora_B` was zero."""
    wire, start = Moved(experiment), experiment.start
    now = {name: tensor + ("classifier" in name or "lora_A" in name) for name, tensor in start.items()}
    assert wire.played(RunState(State(1, {}, {})), lambda: now) is None, "a method may train them in round 2"
    finding = wire.played(RunState(State(2, {}, {})), lambda: now)
    assert finding is not None
    assert (finding.sound, finding.ends) == (False, False)
    assert ".*.attention.self.query.lora_B.weight`" in finding.text
    assert "lora_A" not in finding.text
    assert wire.played(RunState(State(2, {}, {})), lambda: now) is None, "it is said once"


def test_stages_may_leave_tensors_out(tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(recipe(tmp_path, updates=[{"kind": "top-k", "share": 0.01}])))
    now = {name: tensor + ("lora_A" in name) for name, tensor in experiment.start.items()}
    finding = Moved(experiment).played(RunState(State(2, {}, {})), lambda: now)
    assert finding is not None
    assert (finding.sound, finding.ends) == (None, False)
    assert "stages of `updates` may have left them out" in finding.text


@pytest.mark.parametrize("rule", ["ffa", "rolora"])
def test_factors_that_a_rule_fixes_or_alternates_are_no_warning(tmp_path: Path, rule: str) -> None:
    assert checks(fedfm.run(recipe(tmp_path, aggregate={"rule": rule})).path)["moved"]["sound"]


def test_personal_tensors_of_sites_are_not_expected_to_move(tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(recipe(tmp_path, tune={"kind": "lora", "share": "not head"})))
    now = {name: tensor + ("classifier" not in name) for name, tensor in experiment.start.items()}
    state = RunState(State(2, {}, {}))
    simulated = Moved(experiment).played(state, lambda: now)
    at_sites = Moved(replace(experiment, data=replace(experiment.data, training=None))).played(state, lambda: now)
    assert simulated is not None
    assert at_sites is not None
    assert (simulated.sound, at_sites.sound) == (False, True)


def test_a_client_whose_frozen_weights_change_fails(tmp_path: Path) -> None:
    with pytest.raises(TooFewClientsError, match="changed 1 frozen tensors, which `tune` does not train: `base_model"):
        fedfm.run(recipe(tmp_path), tune=Leaking())


def test_a_frozen_weight_that_changed_at_the_server_ends_the_run(tmp_path: Path) -> None:
    experiment = build_experiment(load_recipe(recipe(tmp_path)))
    wire = Frozen(experiment)
    assert wire.finished().sound is True
    weight = dict(experiment.backbone.model.named_parameters())["bert.encoder.layer.1.output.dense.weight"]
    weight.data[-1, -1] = torch.nextafter(weight.data[-1, -1], torch.tensor(9.0))
    finding = wire.finished()
    assert (finding.sound, finding.ends) == (False, True)
    assert finding.text.startswith("1 tensors of the backbone")
    assert "`base_model.model.bert.encoder.layer.1.output.dense.weight`" in finding.text


def test_values_that_did_not_arrive_from_the_checkpoint_are_noticed(experiment: Experiment) -> None:
    model = build_experiment(experiment.recipe).backbone.model
    base = {name: tensor.clone() for name, tensor in model.base_model.state_dict().items() if "lora" not in name}
    refuse_lost_values(model, base, "here")
    next(iter(model.bert.encoder.layer.parameters())).data.zero_()
    with pytest.raises(DataError, match="weights of here did not arrive in the model"):
        refuse_lost_values(model, base, "here")


def test_an_adapter_that_is_not_the_measured_model_is_a_warning(tmp_path: Path) -> None:
    run = fedfm.run(recipe(tmp_path))
    experiment, summary = build_experiment(run.recipe), dict[str, Any]()
    finding = Reload(experiment).written(run.path / "adapter", summary)  # its tunable is as before round 1
    assert (finding.sound, finding.ends) == (False, False)
    assert finding.text.startswith("adapter/ loaded with plain peft is not the model that was measured: on the same")
    assert summary["reloaded"]["agrees"] is False
