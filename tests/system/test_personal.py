"""Personalisation from end to end: clients that disagree, with Ditto, dual adapters and FedAvg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedfm import Run, run
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from tests.small import small_recipe

FEDERATION = {"clients": 4, "rounds": 2, "holdout": 0.2, "label_groups": 2}
EVALUATE = {"at": "clients", "every": 2, "baselines": ["local", "pooled"], "matrix": True}
WEIGHTS = "adapter/adapter_model.safetensors"


def played(folder: Path, **changes: Any) -> Run:
    folder.mkdir()
    groups = {"federation": FEDERATION, "evaluate": {"at": "clients", "every": 2}, "runtime": {"processes": 1}}
    return run(load_recipe(small_recipe(folder, **{**groups, **changes})))


@pytest.fixture(scope="module")
def ditto(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("personal") / "ditto"
    return played(folder, algorithm={"name": "ditto", "lam": 0.5}, evaluate=EVALUATE)


def test_the_shared_model_of_ditto_is_that_of_fedavg_bit_for_bit(ditto: Run, tmp_path: Path) -> None:
    plain = played(tmp_path / "plain")
    mine, theirs = (load_file(found.path / WEIGHTS) for found in (ditto, plain))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    lines = [line for line in jsonl.records(plain.path / "metrics.jsonl") if line["split"] == "client"]
    after = {line["client"]: line["accuracy"] for line in lines if line["round"] == 2}
    rows = ditto.summary["clients_compared"]["by_client"]
    assert {client: found["shared"] for client, found in rows.items()} == after


def test_clients_of_ditto_train_alone_what_they_train_together(ditto: Run, tmp_path: Path) -> None:
    apart = played(
        tmp_path / "apart", algorithm={"name": "ditto", "lam": 0.5}, runtime={"processes": 1, "stack": "off"}
    )
    shared = load_file(ditto.path / WEIGHTS)
    for client in ditto.summary["clients_compared"]["by_client"]:
        one, other = (load_file(found.path / "clients" / client / WEIGHTS) for found in (ditto, apart))
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-2, atol=1e-3)
        assert any(not torch.equal(tensor, shared[name]) for name, tensor in one.items())


def test_every_client_is_compared_with_what_it_would_have_otherwise(ditto: Run) -> None:
    compared = ditto.summary["clients_compared"]
    assert len(compared["by_client"]) == 4
    for found in compared["by_client"].values():
        assert set(found) == {"before", "after", "shared", "local", "pooled"}
    for name, worse in compared["worse_than"].items():
        assert worse == [c for c, found in compared["by_client"].items() if found["after"] < found[name]]
    assert ditto.summary["baselines"]["local"]["worst"] == min(f["local"] for f in compared["by_client"].values())


def test_the_matrix_has_every_clients_model_on_every_clients_examples(ditto: Run) -> None:
    matrix = json.loads((ditto.path / "matrix.json").read_text())
    rows = ditto.summary["clients_compared"]["by_client"]
    assert [matrix["values"][i][i] for i in range(4)] == [rows[client]["after"] for client in matrix["clients"]]
    off = [matrix["values"][i][j] for i in range(4) for j in range(4) if i != j]
    assert ditto.summary["matrix"]["others"] == pytest.approx(sum(off) / 12)
    page = (ditto.path / "report.html").read_text()
    assert "Client by client" in page


def test_dual_adapters_send_only_the_shared_one(tmp_path: Path) -> None:
    found = played(tmp_path / "dual", tune={"kind": "dual-lora", "r": 2}, federation={**FEDERATION, "rounds": 1})
    sent = {t["name"] for line in jsonl.records(found.path / "wire.jsonl") for t in line["tensors"]}
    assert any(".lora_A.shared." in name for name in sent)
    assert not any(".personal." in name for name in sent)
    assert found.summary["reloaded"]["agrees"]
