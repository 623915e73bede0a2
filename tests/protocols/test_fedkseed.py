"""FedKSeed: a client against the paper's loop on dense directions, and whole runs by their ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedfm
from fedfm.clients import Worker
from fedfm.clients.directions import Leg, direction_base, walk
from fedfm.clients.finite_differences import EPSILON
from fedfm.clients.work.seed_pool import COEFFICIENTS, POOL, SEED_POOL, SLOPES
from fedfm.params import Params, add, digest, load, map_params, zeros_like
from fedfm.randomness import numpy_generator
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.rounds.checkpoints import load_checkpoint
from fedfm.server.runs.planning import describe
from fedfm.updates import Asked, Failure, Payload, Reply, Request, decode_update
from tests.small import small_recipe

LOCAL = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None, "max_steps": 6}
LOCAL |= {"lr_scheduler_type": "constant"}  # so that a run of fewer rounds begins alike


def recipe(folder: Path, seeds: int = 1024, **changes: Any) -> dict[str, Any]:
    values = {
        "federation": {"clients": 4, "per_round": 3, "rounds": 3},
        "local": LOCAL,
        "tune": {"kind": "head"},
        "protocol": {"kind": "fedkseed", "seeds": seeds},
        "evaluate": {"every": 3},
        "runtime": {"processes": 1},
    }
    return small_recipe(folder, **{**values, **changes})


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build_experiment(load_recipe(recipe(tmp_path_factory.mktemp("fedkseed"))))


def reply(worker: Worker, groups: Any, *, rate: float = 0.05, **extra: float) -> Reply:
    facts = Asked(learning_rate=rate, extra={EPSILON: 1e-3, **extra})
    message = Payload(2, "b" * 64, facts, groups, work=SEED_POOL).encode()
    (found,) = worker.answer([Request("1", message)])
    return found


def dense(start: Params, place: int) -> Params:
    """−z_s, as a walk of length 1 from zero."""
    lengths = torch.zeros(place + 1)
    lengths[place] = 1.0
    return dict(walk(zeros_like(start), [Leg(direction_base(0), lengths)]))


def test_a_client_takes_the_paper_s_steps(experiment: Experiment) -> None:
    worker = experiment.worker
    assert isinstance(worker, Worker)
    coefficients = torch.zeros(8)
    coefficients[3] = 0.02
    answer = decode_update(reply(worker, {POOL: {COEFFICIENTS: coefficients}}).content)  # type: ignore[arg-type]

    start = {name: worker.contract.start[name].clone() for name in worker.contract.spec}
    w, expected, losses = add(start, map_params(lambda z: 0.02 * z, dense(start, 3))), torch.zeros(8), []
    indices = worker.clients["1"]
    drawn = numpy_generator(0, "pool", round=2, client="1").integers(8, size=6)
    plan = worker.plan(len(indices), "1", 2)
    for batch, place in zip(worker.batches(indices, plan, "1", 2), drawn.tolist(), strict=True):
        back, pair = dense(start, place), []
        for side in (-1e-3, 1e-3):
            worker.tunable.write(add(w, map_params(lambda z, side=side: side * z, back)))
            with torch.no_grad():
                pair.append(worker.tunable.model(**batch).loss.item())
        slope = (pair[0] - pair[1]) / 2e-3
        w = add(w, map_params(lambda z, slope=slope: 0.05 * slope * z, back))
        expected[place] += slope
        losses.append(sum(pair) / 2)
    torch.testing.assert_close(answer.groups[POOL][SLOPES], expected, rtol=2e-2, atol=2e-3)
    assert answer.facts.loss == pytest.approx(sum(losses) / 6, rel=1e-4)
    assert (answer.facts.steps, answer.facts.samples) == (6, 30)


def test_what_no_client_can_read_is_that_client_s_failure(experiment: Experiment) -> None:
    worker, sound = experiment.worker, {POOL: {COEFFICIENTS: torch.zeros(4)}}
    assert isinstance(worker, Worker)
    for groups, extra, reason in (
        ({}, {}, "one float32 coefficient for each"),
        ({POOL: {COEFFICIENTS: torch.zeros(2, 2)}}, {}, "one float32 coefficient for each"),
        (sound, {EPSILON: 0.0}, "`epsilon` of the instruction must be above 0"),
    ):
        content = reply(worker, groups, **extra).content
        assert isinstance(content, Failure)
        assert reason in content.reason


def delivered(run: fedfm.Run) -> str:
    return digest(load(run.path / "model" / "model.safetensors"))


def test_messages_are_four_bytes_a_direction_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = fedfm.run(recipe(tmp_path), ["name=whole"])
    lines = list(jsonl.records(whole.folder.wire))
    assert {(line["direction"], *(tensor["name"] for tensor in line["tensors"])) for line in lines} == {
        ("down", "pool/a"),
        ("up", "pool/b"),
    }
    assert max(line["bytes"] for line in lines) <= 4500
    planned = describe(build_experiment(load_recipe(recipe(tmp_path))))["bytes"]
    assert all(abs(planned[f"per_client_{line['direction']}"] - line["bytes"]) < 60 for line in lines)

    saved = load_checkpoint(whole.folder)
    assert saved is not None
    start = build_experiment(load_recipe(recipe(tmp_path))).start
    leg = Leg(direction_base(0), saved.state.protocol.server[POOL][COEFFICIENTS])
    assert digest(dict(walk(start, [leg]))) == digest(saved.state.params)

    fedfm.run(recipe(tmp_path), ["name=short", "federation.rounds=1", "runtime.processes=2"])
    again = fedfm.resume(tmp_path / "runs" / "short", ["federation.rounds=3"])
    assert delivered(again) == delivered(whole)


def test_a_client_learns_without_gradients(tmp_path: Path) -> None:
    local = {**LOCAL, "max_steps": 60, "batch_size": 30}
    experiment = build_experiment(load_recipe(recipe(tmp_path, local=local, federation={"clients": 2})))
    worker = experiment.worker
    assert isinstance(worker, Worker)

    def loss(params: Params) -> float:
        worker.tunable.write(params)
        return experiment.evaluator(worker.examples, worker.clients["1"])["loss"]

    answer = decode_update(reply(worker, {POOL: {COEFFICIENTS: torch.zeros(64)}}).content)  # type: ignore[arg-type]
    after = dict(walk(experiment.start, [Leg(direction_base(0), 0.05 * answer.groups[POOL][SLOPES])]))
    best = loss({**experiment.start, "classifier.bias": _log_shares(worker)})
    assert loss(after) - best < 0.3 * (loss(experiment.start) - best)


def _log_shares(worker: Worker) -> torch.Tensor:
    """The bias of a classifier that only knows how frequent the classes are."""
    labels = worker.examples.labels
    assert labels is not None
    counts = np.bincount(labels[worker.clients["1"]], minlength=2)
    return torch.from_numpy(np.log(counts / counts.sum())).float()
