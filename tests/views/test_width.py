"""Sub-models: salience by hand, slices in a model, and the function of a client against a model that was really cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedfm
from fedfm.clients import Worker
from fedfm.errors import RecipeError
from fedfm.models.families import blocks
from fedfm.proxies.ffn import keep_neurons
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.spec import spec_of
from fedfm.views import UnitAxis, Width, narrow, widen
from fedfm.views.width import salience_order
from tests.events import irregular
from tests.small import small_recipe

START = {
    "up": torch.tensor([[1.0, -1.0], [0.0, 0.5], [3.0, 0.0], [-2.0, 0.0]]),
    "down": torch.tensor([[0.0, 4.0, 0.0, 0.0]]),
    "norm": torch.ones(2),
}
ANATOMY = {"up": UnitAxis("ffn", 0, 4), "down": UnitAxis("ffn", 1, 4)}


def recipe(folder: Path, budgets: Any, **changes: Any) -> dict[str, Any]:
    federation = {"clients": 3, "per_round": 3, "rounds": 2, "budgets": budgets}
    local = {"batch_size": 10, "learning_rate": 0.002}
    return small_recipe(
        folder,
        **{"federation": federation, "local": local, "tune": {"kind": "full"}, "evaluate": {"every": 2}, **changes},
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return build_experiment(load_recipe(recipe(tmp_path_factory.mktemp("width"), {"0": 0.5, "1": 0.25})))


def test_the_most_salient_units_are_held() -> None:
    # Sums of sizes: 2, 0.5 + 4, 3, 2; of equal units the first comes first.
    assert salience_order(ANATOMY, START)["ffn"].tolist() == [1, 2, 0, 3]
    view = Width({"phone-*": 0.5, "tiny": 0.1}).on(ANATOMY, START)
    found = {client: narrow(START, view.held(spec_of(START), client, 1)) for client in ("phone-1", "tiny", "other")}
    assert found["phone-1"]["up"].tolist() == [[0.0, 0.5], [3.0, 0.0]]
    assert found["phone-1"]["down"].tolist() == [[4.0, 0.0]]
    assert found["tiny"]["up"].tolist() == [[0.0, 0.5]]  # never fewer than one
    assert all(found["other"][name] is START[name] for name in START)
    assert found["tiny"]["norm"] is START["norm"]


def test_units_of_several_rows_and_copies() -> None:
    assert UnitAxis("heads", 0, 3).positions(torch.tensor([0, 2]), 6).tolist() == [0, 1, 4, 5]
    fused = UnitAxis("ffn", 0, 3, copies=2)  # gate and up in one matrix
    assert fused.positions(torch.tensor([1]), 6).tolist() == [1, 4]
    gate_up = torch.tensor([[1.0], [5.0], [2.0], [9.0], [1.0], [2.0]])
    assert salience_order({"w": fused}, {"w": gate_up})["ffn"].tolist() == [0, 1, 2]


def test_a_smaller_share_is_part_of_a_larger_one(experiment: Experiment) -> None:
    contract = experiment.contract
    half, quarter = (contract.views.held(contract.spec, client, 1) for client in ("0", "1"))
    cut = {name for name in half if half[name]}
    assert {name.split("layer.0.")[1] for name in cut if "layer.0." in name} == {
        f"{path}.{part}"
        for path in ("attention.self.query", "attention.self.key", "attention.self.value", "intermediate.dense")
        for part in ("weight", "bias")
    } | {"attention.output.dense.weight", "output.dense.weight"}
    for name in cut:
        one, other = half[name][-1], quarter[name][-1]
        assert len(one) == contract.spec[name].shape[len(half[name]) - 1] // 2
        assert len(other) == (len(one) if "attention" in name else len(one) // 2)  # of two heads, one is left
        assert set(other.tolist()) <= set(one.tolist())


def test_a_client_s_function_is_that_of_a_model_without_its_other_neurons(experiment: Experiment) -> None:
    worker = experiment.worker
    assert isinstance(worker, Worker)
    contract = worker.contract
    held = contract.views.held(contract.spec, "0", 1)
    ffn_only = {name: slices if "attention" not in name else () for name, slices in held.items()}
    zeros = {name: torch.zeros(spec.shape) for name, spec in contract.spec.items()}
    batch = next(iter(worker.batches(worker.clients["0"], [worker.clients["0"][:4] * 0], "0", 1)))
    worker.tunable.write(widen(narrow(experiment.start, ffn_only), ffn_only, zeros))
    worker.tunable.eval()
    with torch.no_grad():
        zeroed = worker.tunable.model(**batch).logits
        worker.tunable.write(experiment.start)
        whole = worker.tunable.model(**batch).logits
        model = worker.tunable.merged()
        for block in blocks(model, experiment.backbone.family):
            kept = next(held[name] for name in held if f"{block.path}.intermediate.dense.weight" in name)[0]
            keep_neurons(block, kept)
        torch.testing.assert_close(zeroed, model(**batch).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(zeroed, whole, atol=1e-4)


def test_weak_clients_send_fewer_bytes_and_the_model_learns(tmp_path: Path) -> None:
    run = fedfm.run(recipe(tmp_path, {"0": 0.5, "1": 0.25}))
    sizes = {
        (line["direction"], client): line["bytes"]
        for line in jsonl.records(run.folder.wire)
        for client in line["clients"]
    }
    for direction in ("up", "down"):
        assert sizes[direction, "1"] < sizes[direction, "0"] < sizes[direction, "2"]
    assert run.summary["final"]["loss"] < run.summary["initial"]["loss"]
    assert irregular(run.events) == []


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="at least one share"):
        load_recipe(recipe(tmp_path, []))


def test_a_list_is_dealt_by_client_and_seed() -> None:
    shares = [Width((0.25, 1.0), seed=3).share(str(client)) for client in range(200)]
    assert 60 < shares.count(0.25) < 140
    assert shares == [Width((0.25, 1.0), seed=3).share(str(client)) for client in range(200)]
