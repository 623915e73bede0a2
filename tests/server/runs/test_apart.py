"""Clients without a federation: in one pass each learns what it learns by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm import build_experiment, load_recipe
from fedfm.clients import Worker
from fedfm.params import Params
from fedfm.server.runs.apart import train_alone, trained_apart
from tests.small import small_recipe

STEPS = {"0": [2, 2], "1": [1, 1, 1], "2": [2, 1]}


def worker_of(folder: Path, **changes: Any) -> tuple[Worker, Params]:
    values = small_recipe(folder, tune={"kind": "lora", "r": 2}, runtime={"stack": 4, "precision": "float32"})
    values["federation"] = {"clients": 3, "rounds": 3, "partition": {"kind": "iid"}}
    values["local"] = {**values["local"], **changes}
    experiment = build_experiment(load_recipe(values))
    assert isinstance(experiment.worker, Worker)
    return experiment.worker, experiment.start


def test_a_shared_pass_gives_each_client_what_it_learns_alone(tmp_path: Path) -> None:
    worker, start = worker_of(tmp_path)
    assert worker.stacking is not None
    assert worker.stacking.clients > 1
    found = dict(trained_apart(worker, start, worker.clients, STEPS))
    assert sorted(found) == sorted(STEPS)
    for client, indices in worker.clients.items():
        train_alone(worker, start, indices, client, STEPS[client])
        for name, value in worker.tunable.read().items():
            torch.testing.assert_close(found[client][name], value, rtol=1e-4, atol=1e-5)
            assert name.endswith("lora_A.weight") or not torch.equal(value, start[name])


def test_where_one_diverges_each_is_trained_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, start = worker_of(tmp_path)

    def diverges(*arguments: object, **options: object) -> None:
        raise FloatingPointError("step 1 of a client is not finite")

    monkeypatch.setattr("fedfm.server.runs.apart.train_stacked", diverges)
    found = dict(trained_apart(worker, start, worker.clients, STEPS))
    train_alone(worker, start, worker.clients["1"], "1", STEPS["1"])
    assert all(torch.equal(found["1"][name], value) for name, value in worker.tunable.read().items())
