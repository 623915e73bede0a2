"""P7: ledger and budget of clients that protect their examples, also of runs that were killed and resumed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fedfm import resume, run
from fedfm.clients import train_locally
from fedfm.errors import RecipeError
from fedfm.privacy.client_ledger import ClientLedger
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import build_experiment
from fedfm.server.runs.planning import describe
from fedfm.wire import from_bytes
from tests.small import small_recipe

PRIVATE = {"kind": "local", "noise_multiplier": 1.0, "delta": 1e-2, "clip": 0.5, "accountant": "pld"}


class Killed(BaseException):
    """Stands for the end of the process."""


def recipe(folder: Path, rounds: int = 3, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "federation": {"clients": 4, "per_round": 2, "rounds": rounds},
        "local": {"batch_size": 5, "learning_rate": 0.01, "max_steps": 2},
        "runtime": {"kind": "local", "processes": 1},
        "evaluate": {"every": 10},
        "privacy": PRIVATE,
    }
    return small_recipe(folder, **values | changes)


def ledger(folder: Path) -> ClientLedger:
    return ClientLedger.of(jsonl.records(RunFolder(folder).privacy))


def test_p7_a_killed_run_pays_for_the_steps_that_it_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has a fresh sample and fresh noise, so that a repeated round costs as much as another."""
    values = recipe(tmp_path)
    trained: list[int] = []

    def dying(*arguments: Any, **named: Any) -> Any:
        trained.append(len(trained))
        if len(trained) == 4:
            raise Killed  # in round 2, at its second client
        return train_locally(*arguments, **named)

    monkeypatch.setattr("fedfm.clients.worker.train_locally", dying)
    with pytest.raises(Killed):
        run(values)
    folder = tmp_path / "runs" / "small"
    before = ledger(folder)
    assert sum(rounds.total() for rounds in before.rounds.values()) == 4
    with (folder / "privacy.jsonl").open("a") as lines:
        lines.write('{"kind": "st')  # a line that was being written when the power failed
    summary = resume(folder).summary
    after = ledger(folder)
    times = Counter(number for rounds in after.rounds.values() for number in rounds.elements())
    assert times == {1: 2, 2: 4, 3: 2}  # what was spent, and not less
    promise = build_experiment(load_recipe(values)).example_promise
    assert promise is not None
    found = summary["privacy"]
    assert found["epsilon"] == max(promise.epsilon(spent) for spent in after.spent.values())
    assert (found["kind"], found["unit"], found["delta"]) == ("local", "example", 1e-2)
    assert found["steps"] == 2 * found["rounds"]


def test_what_a_client_sends_beside_its_update_has_no_loss(tmp_path: Path) -> None:
    """Loss, predictions and the sizes of samples are of the data, and have no noise."""
    finished = run(recipe(tmp_path, rounds=1))
    lines = [line for line in jsonl.records(finished.path / "metrics.jsonl") if line["split"] == "train"]
    assert not any("loss" in line for line in lines)
    assert finished.summary["clients"]["failed"] == 0
    card = (finished.path / "adapter" / "README.md").read_text()
    assert "differential privacy, per example." in card
    assert "per example" in (finished.path / "report.html").read_text()


def test_clients_that_have_spent_take_no_more_part(tmp_path: Path) -> None:
    """Two of four clients are asked in each round, until no one can be asked."""
    values = recipe(tmp_path, rounds=60, privacy=PRIVATE | {"epsilon": 2.5})
    finished = run(values)
    summary = finished.summary
    assert summary["status"] == "budget"
    promise = build_experiment(load_recipe(values)).example_promise
    assert promise is not None
    steps, spent = promise.at(15), ledger(finished.path).spent
    most = next(n for n in range(1, 60) if promise.epsilon({steps.spending: n + 1}) > 2.5)
    assert spent == {client: {steps.spending: most} for client in "0123"}
    assert summary["privacy"]["epsilon"] <= 2.5
    events = [line for line in jsonl.records(finished.path / "events.jsonl") if line["kind"] == "not asked"]
    assert all("another round would exceed privacy.epsilon" in line["reason"] for line in events)
    assert {line["client"] for line in events} <= set("0123")
    with pytest.raises(RecipeError, match="would exceed the privacy budget"):
        resume(finished.path, ["federation.rounds=80"])


def test_a_ledger_that_was_cut_is_noticed(tmp_path: Path) -> None:
    finished = run(recipe(tmp_path, rounds=2, checkpoint={"every": 1, "keep": "all"}))
    path = finished.path / "privacy.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    with pytest.raises(RecipeError, match=r"privacy\.jsonl lacks steps of client"):
        resume(finished.path, ["federation.rounds=3"])


def test_sums_of_private_updates_are_private(tmp_path: Path) -> None:
    """With secure sums the server sees less still; the ledger is the same."""
    values = recipe(
        tmp_path,
        rounds=1,
        federation={"clients": 6, "per_round": 6, "rounds": 1},
        secure={"kind": "secagg"},
    )
    finished = run(values)
    assert finished.summary["status"] == "completed"
    assert {client: spent.total() for client, spent in ledger(finished.path).spent.items()} == dict.fromkeys(
        "012345", 1
    )


def test_two_runs_of_one_recipe_have_different_samples_and_noise(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        path = run(recipe(tmp_path / name, rounds=1)).path / "adapter" / "adapter_model.safetensors"
        tensors, _ = from_bytes(path.read_bytes())
        found.append({name: tensors[name].clone() for name in tensors})
    assert all(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_check_says_what_it_will_cost(tmp_path: Path) -> None:
    """By the client that spends most, before anything is trained."""
    experiment = build_experiment(load_recipe(recipe(tmp_path, rounds=5)))
    planned = describe(experiment)["privacy"]
    promise = experiment.example_promise
    assert promise is not None
    assert planned["epsilon"] == promise.epsilon({promise.at(15).spending: 5})
    assert "clips each example's gradient" in experiment.training
    assert "one example after the other" not in experiment.training
    alone = build_experiment(load_recipe(recipe(tmp_path, local={"batch_size": 5, "dropout": True})))
    assert "one example after the other: stacked layers have no dropout" in alone.training


def test_a_delta_that_protects_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"privacy\.delta: 0\.1 is not below 1 / 15 examples of a client"):
        build_experiment(load_recipe(recipe(tmp_path, privacy=PRIVATE | {"delta": 0.1})))
