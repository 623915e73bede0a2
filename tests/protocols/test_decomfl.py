"""DeComFL: slopes against dense directions, replay by the ledger, and sites that keep what they have replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.clients import Worker
from fedfm.clients.directions import Leg, direction_base, walk
from fedfm.clients.finite_differences import EPSILON
from fedfm.clients.state import decode_state, encode_state
from fedfm.clients.work.slopes import (
    CENTRAL,
    HISTORY,
    KEPT,
    LENGTHS,
    MEASURE_SLOPES,
    MEASURED,
    PERTURBATIONS,
    STEPS,
    VALUES,
)
from fedfm.params import add, digest, map_params, zeros_like
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.runs import start as runs
from fedfm.server.runs.baselines import Baselines
from fedfm.server.runs.serving import for_sites
from fedfm.sites.policy import Policy
from fedfm.updates import Asked, Failure, Payload, Reply, Request, decode_update
from tests.server.experiment.test_deployment import NAMES, at_sites, split
from tests.small import small_recipe

LOCAL = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None}
LOCAL |= {"lr_scheduler_type": "constant"}  # so that a run of fewer rounds begins alike
PROTOCOL = {"kind": "decomfl", "steps": 2, "perturbations": 3}


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "federation": {"clients": 6, "per_round": 2, "rounds": 5},
        "local": LOCAL,
        "tune": {"kind": "lora", "r": 2},
        "protocol": PROTOCOL,
        "evaluate": {"every": 5},
        "runtime": {"processes": 1},
    }
    return small_recipe(folder, **{**values, **changes})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build_experiment(load_recipe(recipe(tmp_path_factory.mktemp("decomfl"))))


def reply(worker: Worker, number: int, history: Any, kept: Any = None, **extra: float) -> Reply:
    facts = {EPSILON: 1e-3, STEPS: 2.0, PERTURBATIONS: 3.0, **extra}
    groups = {} if history is None else {HISTORY: {LENGTHS: history}}
    message = Payload(number, "b" * 64, Asked(learning_rate=0.05, extra=facts), groups, work=MEASURE_SLOPES).encode()
    state = None if kept is None else encode_state({KEPT: {LENGTHS: kept}})
    (found,) = worker.answer([Request("1", message, state)])
    return found


@pytest.mark.parametrize("central", [0.0, 1.0])
def test_a_client_replays_and_measures_where_the_server_is(experiment: Experiment, central: float) -> None:
    worker = experiment.worker
    assert isinstance(worker, Worker)
    past = torch.tensor([[[0.02, 0.0, -0.01], [0.0, 0.03, 0.0]]])
    found = reply(worker, 2, past, **{CENTRAL: central})
    answer = decode_update(found.content)  # type: ignore[arg-type]
    assert found.state is not None
    assert torch.equal(decode_state(found.state)[KEPT][LENGTHS], past)

    w = dict(walk(experiment.start, [Leg(direction_base(0, round=1), past.flatten())]))
    indices, base, expected = worker.clients["1"], direction_base(0, round=2), torch.zeros(2, 3)
    plan = worker.plan(len(indices), "1", 2, 2)
    for step, batch in enumerate(worker.batches(indices, plan, "1", 2)):

        def loss(values: Any, batch: Any = batch) -> float:
            worker.tunable.write(values)
            with torch.no_grad():
                return float(worker.tunable.model(**batch).loss)

        back = [
            dict(walk(zeros_like(w), [Leg(base, torch.eye(6)[step * 3 + place])])) for place in range(3)
        ]  # −z of each direction
        for place, z in enumerate(back):
            above, below = (
                loss(add(w, map_params(lambda z, side=side: side * z, z))) for side in (-1e-3, 1e-3 * central)
            )
            expected[step, place] = (above - below) / (1e-3 * (1 + central))
        for place, z in enumerate(back):
            w = add(w, map_params(lambda z, g=expected[step, place]: 0.05 / 3 * g * z, z))
    torch.testing.assert_close(answer.groups[MEASURED][VALUES], expected, rtol=3e-2, atol=3e-3)


def test_a_client_that_keeps_rounds_needs_only_the_others(experiment: Experiment) -> None:
    worker = experiment.worker
    assert isinstance(worker, Worker)
    history = torch.linspace(-0.02, 0.02, 18).view(3, 2, 3)
    once = reply(worker, 4, history)
    worker.memo.clear()
    later = reply(worker, 4, history[1:], kept=history[:1])
    assert (later.content, later.state) == (once.content, once.state)
    for came, kept, reason in ((history[2:], history[:1], "rounds 2 to 3"), (None, None, "rounds 1 to 3")):
        content = reply(worker, 4, came, kept).content
        assert isinstance(content, Failure)
        assert reason in content.reason
    content = reply(worker, 1, None, **{STEPS: 0.5}).content
    assert isinstance(content, Failure)
    assert "whole numbers from 1" in content.reason


def tensors(run: fedfm.Run) -> dict[str, Any]:
    """What a checkpoint has at the end."""
    saved = load_checkpoint(run.folder)
    assert saved is not None
    state = saved.state.protocol
    return {"w": digest(state.params), "history": state.server[HISTORY][LENGTHS], "replayed": dict(state.facts)}


def test_each_round_s_scalars_reach_a_client_once(tmp_path: Path) -> None:
    whole = fedfm.run(recipe(tmp_path), ["name=whole"])
    got: dict[str, int] = {}
    for line in jsonl.records(whole.folder.wire):
        for tensor in line["tensors"]:
            assert tensor["name"] in {"history/lengths", "slopes/values"}
            if line["direction"] == "down":
                assert tensor["shape"][1:] == [2, 3]
                got |= {client: got.get(client, 0) + tensor["shape"][0] for client in line["clients"]}
    end = tensors(whole)
    assert {client: rounds for client, rounds in end["replayed"].items() if rounds} == got
    assert len(set(got.values())) > 1, "no client was absent and came back"
    start = build_experiment(load_recipe(recipe(tmp_path))).start
    legs = [Leg(direction_base(0, round=number), row.flatten()) for number, row in enumerate(end["history"], 1)]
    assert digest(dict(walk(start, legs))) == end["w"]

    fedfm.run(recipe(tmp_path), ["name=short", "federation.rounds=2", "runtime.processes=2"])
    again = tensors(fedfm.resume(tmp_path / "runs" / "short", ["federation.rounds=5"]))
    assert (again["w"], again["replayed"]) == (end["w"], end["replayed"])


def test_sites_keep_what_they_have_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "baselines", lambda experiment, state: Baselines())
    values = recipe(tmp_path, federation={"per_round": 3, "rounds": 3}, evaluate={"every": 3})
    simulated = fedfm.run(load_recipe(values, ["data.client=site", "name=simulated"]))
    deployment, said, _ = at_sites(tmp_path, split(tmp_path), Policy(works=["slopes"]))
    real = fedfm.run(for_sites(load_recipe(values), len(NAMES)), deployment=deployment)
    assert tensors(real)["w"] == tensors(simulated)["w"]
    assert any("slopes" in line for line in said)


def test_an_empty_round_is_a_step_of_length_zero(experiment: Experiment) -> None:
    from types import SimpleNamespace

    from fedfm.aggregation import Mean
    from fedfm.protocols import DeComFL

    protocol = DeComFL(**PROTOCOL)
    io = SimpleNamespace(
        cohort=lambda number: {}, learning_rate=lambda number: 0.1, rule=Mean(), seed=0, ask=lambda asks, copies: ()
    )
    state = protocol.step(protocol.start(experiment.start, None), io)  # type: ignore[arg-type]
    assert digest(state.params) == digest(experiment.start)
    assert state.server[HISTORY][LENGTHS].tolist() == [[[0.0] * 3] * 2]
