"""Whole runs: the model is that of a plain run, whatever drops out, locally and over Flower; a server sees masks."""

from __future__ import annotations

import json
from html import unescape
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import fedfm
from fedfm import Listener
from fedfm.cli.display import describe_outcome, describe_plan
from fedfm.clients.work import WORKS, secure_sum
from fedfm.errors import RecipeError, TooFewClientsError
from fedfm.params import Params, digest, load
from fedfm.recipe import Recipe, load_recipe
from fedfm.secure import NoSecure, SecAgg
from fedfm.secure.grid import Grid
from fedfm.server.experiment.build import build_experiment
from fedfm.server.runs.planning import describe
from fedfm.updates import Update
from tests.small import small_recipe

TERMS = {"kind": "secagg", "min_clients": 3}
FEDERATION = {"clients": 6, "per_round": 5, "rounds": 2}
STEPS = ["advertise-keys", "share-secrets", "train-masked", "confirm-survivors", "unmask"]


def recipe(folder: Path, name: str, **changes: Any) -> Recipe:
    return load_recipe(small_recipe(folder, federation=FEDERATION, **changes) | {"name": name})


def adapter(run: fedfm.Run) -> Params:
    return load(run.path / "adapter" / "adapter_model.safetensors")


def rows(run: fedfm.Run, file: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (run.path / file).read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secure")


@pytest.fixture(scope="module")
def plain(folder: Path) -> fedfm.Run:
    return fedfm.run(recipe(folder, "plain"))


@pytest.fixture(scope="module")
def secure(folder: Path) -> fedfm.Run:
    return fedfm.run(recipe(folder, "secure", secure=TERMS))


def test_the_model_is_that_of_a_plain_run(plain: fedfm.Run, secure: fedfm.Run) -> None:
    """Quantisation moves a value of an update by at most N·s/Σw; AdamW makes more of it in the second round."""
    step = Grid(clients=5, clip=1.0, weight=10_000, bits=32).step
    first = 5 * step / 50
    assert first < 3e-6
    expected, found = adapter(plain), adapter(secure)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)
    losses = [[row["loss"] for row in rows(run, "metrics.jsonl") if row["split"] == "train"] for run in (plain, secure)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    for key in ("samples", "clients", "rounds"):
        assert secure.summary.get(key) == plain.summary.get(key)


def test_the_ledger_lists_masked_groups_and_no_update(secure: fedfm.Run) -> None:
    """Five exchanges a round; of a client's answers, the server has keys, shares, masked words and signatures."""
    wire = [row for row in rows(secure, "wire.jsonl") if row["kind"] == "message"]
    assert list(dict.fromkeys(row["work"] for row in wire)) == STEPS
    up = [row for row in wire if row["direction"] == "up"]
    assert len(up) == 2 * 5 * 5
    assert {tensor["name"] for row in up for tensor in row["tensors"]} == {
        f"secure/{name}" for name in ("keys", "shares", "values", "facts", "proof", "signature")
    }
    size = sum(tensor.numel() for tensor in adapter(secure).values())
    masked = [tensor for row in up for tensor in row["tensors"] if tensor["name"] == "secure/values"]
    assert {tensor["dtype"] for tensor in masked} == {"uint32"}
    assert all(tensor["shape"][0] >= size for tensor in masked)
    assert len({tensor["digest"] for tensor in masked}) == len(masked)


def test_terminal_report_and_card_say_what_the_server_sees(secure: fedfm.Run, plain: fedfm.Run) -> None:
    said = SecAgg.statement
    assert said is not None
    for run, there in ((secure, True), (plain, False)):
        shown = StringIO()
        terminal = Console(file=shown, width=400)
        terminal.print(describe_plan(describe(build_experiment(load_recipe(run.folder.recipe)))))
        terminal.print(describe_outcome(run.path, run.summary))
        report, card = run.folder.report.read_text(), (run.folder.adapter / "README.md").read_text()
        assert [text.count(said) for text in (shown.getvalue(), unescape(report), card)] == (
            [2, 1, 1] if there else [0] * 3
        )
    page = Path(__file__).parents[2] / "docs" / "methods" / "secure-aggregation.md"
    assert said in " ".join(page.read_text(encoding="utf-8").replace("\n> ", " ").split())


def test_the_plan_names_the_bytes(folder: Path, secure: fedfm.Run) -> None:
    experiment = build_experiment(recipe(folder, "planned", secure=TERMS))
    down, up = experiment.message_bytes("0", 1)
    bytes_ = secure.summary["bytes"]
    assert 10 * up == pytest.approx(bytes_["up"], rel=0.03)
    assert 10 * down == pytest.approx(bytes_["down"], rel=0.03)


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Clients that fail once they have trained."""
    lost: list[str] = []
    masked = secure_sum._masked

    def fails(worker: Any, task: Any, update: Update) -> Any:
        if task.client in lost:
            raise ConnectionError("the line is down")
        return masked(worker, task, update)

    monkeypatch.setattr(secure_sum, "_masked", fails)
    return lost


def test_the_sum_is_that_of_the_clients_that_stay(folder: Path, losing: list[str]) -> None:
    """A secure round that loses a client is a plain round without it, to the quantisation step."""
    one = recipe(folder, "lost", secure=TERMS, runtime={"processes": 1})
    one = one.model_copy(update={"federation": one.federation.model_copy(update={"rounds": 1, "per_round": 6})})
    losing.append("2")
    lost = fedfm.run(one)
    assert lost.summary["clients"]["failed"] == 1
    training = import_module("fedfm.clients.work.train")
    finish = training._finish

    def without(worker: Any, task: Any, *others: Any, **more: Any) -> Any:
        if task.client == "2":
            raise ConnectionError("the line is down")
        return finish(worker, task, *others, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_finish", without)
        sums = adapter(fedfm.run(one.model_copy(update={"name": "plain-lost", "secure": NoSecure()})))
    for name, tensor in adapter(lost).items():
        torch.testing.assert_close(tensor, sums[name], rtol=0, atol=1e-5)
    assert [row["kind"] for row in rows(lost, "events.jsonl") if row["client"] is not None] == ["failed"]


def test_too_few_clients_end_the_run_after_some_attempts(folder: Path, losing: list[str]) -> None:
    losing += ["0", "1", "3", "4", "5"]
    few = recipe(folder, "few", secure={**TERMS, "attempts": 2}, runtime={"processes": 1})
    with pytest.raises(TooFewClientsError, match=r"round 1 has no secure sum: attempt 2 of 2: only \d clients"):
        fedfm.run(few)


class Stumbling(Listener):
    """Ends its process's run once masked vectors of a round have come."""

    def __init__(self) -> None:
        self.answers = 0

    def on_client(self, round: int, done: int, total: int, client: str, seconds: float) -> None:  # noqa: A002
        self.answers += round == 2
        if self.answers == 13:
            raise RuntimeError("stumbled")


def test_a_resumed_round_is_a_new_attempt_with_the_same_sum(folder: Path, secure: fedfm.Run) -> None:
    """A server that stops between masked vectors asks again from the start, with other keys: no key masks twice."""
    name = "stumbled"
    stumbling = recipe(folder, name, secure=TERMS)
    with pytest.raises(RuntimeError, match="stumbled"):
        fedfm.run(stumbling, listeners=[Stumbling()])
    resumed = fedfm.resume(stumbling.folder)
    assert digest(adapter(resumed)) == digest(adapter(secure))
    keys = [tensor["digest"] for run in (secure, resumed) for tensor in keys_of(run)]
    assert len(set(keys)) == len(keys) == 20


def keys_of(run: fedfm.Run) -> list[dict[str, Any]]:
    found = [tensor for row in rows(run, "wire.jsonl") for tensor in row["tensors"]]
    return [tensor for tensor in found if tensor["name"] == "secure/keys"]


def test_over_flower(folder: Path, secure: fedfm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("flwr") is None:
        pytest.skip("the extra `flower` is not installed")
    from fedfm.hosts.node import Node
    from fedfm.runtimes.flower.apps import make_client_app
    from fedfm.runtimes.flower.in_process import InProcessGrid
    from fedfm.server.experiment.runtime_factory import RUNTIMES, over_nodes
    from tests.runtimes.test_flower import carried

    nodes = {1: Node(), 2: Node()}
    grid = InProcessGrid(make_client_app(lambda context: nodes[context.node_id].handle), [{}, {}])
    line = tmp_path / "socket" / "relay"
    monkeypatch.setitem(RUNTIMES, "flower", lambda experiment, _: over_nodes(experiment, carried(grid, line)))
    flower = fedfm.run(recipe(folder, "flower", secure=TERMS, runtime={"kind": "flower"}))
    assert digest(adapter(flower)) == digest(adapter(secure))
    shapes = [
        [
            (row["work"], row["clients"], [(t["name"], t["shape"]) for t in row["tensors"]])
            for row in rows(run, "wire.jsonl")
        ]
        for run in (secure, flower)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aggregate": {"rule": "median"}}, "median` needs individual updates"),
        ({"aggregate": {"rule": "flora"}}, "flora` needs individual updates"),
        ({"updates": [{"kind": "top-k"}]}, "top-k` needs stateful clients"),
        ({"updates": [{"kind": "random-k", "error_feedback": False}]}, ""),
        ({"updates": [{"kind": "clip"}], "aggregate": {"rule": "ffa"}}, ""),
        ({"aggregate": {"rule": "rolora", "weights": "uniform"}, "algorithm": {"name": "fedadam"}}, ""),
        ({"secure": {"kind": "secagg", "neighbors": 5}}, "secure.neighbors"),
        ({"secure": {"kind": "secagg", "threshold": 0.4}}, "secure.threshold"),
        ({"secure": {"kind": "secagg", "min_clients": 2}}, "secure.min_clients"),
        ({"secure": {"kind": "secagg", "bits": 16}}, "secure.bits"),
    ],
)
def test_b13_what_goes_with_sums(folder: Path, changes: dict[str, Any], reason: str) -> None:
    values = small_recipe(folder, federation=FEDERATION) | {"secure": TERMS} | changes
    if not reason:
        assert load_recipe(values).secure.sums_only
        return
    with pytest.raises(RecipeError, match=reason):
        load_recipe(values)


def test_the_works_are_known_and_hide_what_clients_hold() -> None:
    assert list(SecAgg.works) == STEPS
    assert all(WORKS[work].hides and WORKS[work].keeps for work in SecAgg.works)
