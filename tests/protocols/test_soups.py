"""Greedy and learned soups against numpy and autograd, and whole runs with a client that has wrong labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedfm import run
from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import FedAvg
from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.protocols import Ask, ClientUpdate, GreedySoup, LearnedSoup, Protocol, State
from fedfm.protocols.ingredients import Ingredients
from fedfm.protocols.learned_soup import undecided
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.server.experiment.build import build_experiment
from fedfm.spec import spec_of
from fedfm.updates import Done, UpdatePath
from fedfm.wire import TUNABLE
from tests.small import WORDS, small_recipe

EXAMPLES = {"a": 1, "b": 4, "c": 2, "bad": 3}
DELTAS = {
    "a": np.array([1.0, 0.2, -0.1]),
    "b": np.array([0.7, -0.3, 0.1]),
    "c": np.array([1.2, 0.1, 0.3]),
    "bad": np.array([-1.0, 0.5, 0.0]),
}
START = np.array([0.5, 0.5, 0.5])
BEST = START + np.array([1.0, 0.0, 0.1])


class Kitchen:
    """A server whose clients answer with constant updates; plays the part of `fedfm.protocols.IO`."""

    rule, up, seed, algorithm, clients = Mean(weights="examples"), UpdatePath(), 0, FedAvg(), EXAMPLES

    def __init__(self, deltas: Mapping[str, Any] = DELTAS) -> None:
        self.deltas = deltas
        self.spec = spec_of({"x": torch.zeros(3, dtype=torch.float64)})
        self.judged = 0
        self.left_out: list[str] = []
        self.weights: dict[str, float] = {}

    def cohort(self, number: int) -> dict[str, int]:
        return dict.fromkeys(self.deltas, 1)

    def learning_rate(self, number: int) -> float:
        return 0.1

    def ask(self, asks: Mapping[str, Ask], *, copies: Mapping[str, int]) -> Iterator[ClientUpdate]:
        for client in asks:
            contribution = Contribution(client, EXAMPLES[client], 1, copies[client])
            done = Done(client=client, examples=EXAMPLES[client], steps=1)
            delta = torch.from_numpy(self.deltas[client])
            yield ClientUpdate(client, {TUNABLE: {"x": delta}}, done, contribution, {"x": ()})

    def judge(self, params: Params) -> tuple[float, ...]:
        self.judged += 1
        error = float(((params["x"].numpy() - BEST) ** 2).sum())
        return -error, -error

    def require_updates(self, updates: int) -> None:
        assert updates

    def record(self, figures: Mapping[str, float]) -> None:
        pass

    def note(self, kind: str, client: str, reason: str) -> None:
        self.left_out.append(client)

    def measure(self, split: str, figures: Mapping[str, Any]) -> None:
        self.weights[figures["client"]] = figures["weight"]


def stepped(protocol: Protocol, io: Kitchen) -> State:
    return protocol.step(State(0, {"x": torch.from_numpy(START)}), io)  # type: ignore[arg-type]


def mean_of(clients: list[str], deltas: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The tunable with the updates of some clients, weighted by their examples."""
    total = sum(EXAMPLES[client] for client in clients)
    return START + sum(EXAMPLES[client] / total * deltas[client] for client in clients)


def test_a_greedy_soup_is_recipe_1_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(20):
        deltas = {client: rng.normal(size=3) for client in EXAMPLES}

        def error(clients: list[str], deltas: Mapping[str, Any] = deltas) -> float:
            return float(((mean_of(clients, deltas) - BEST) ** 2).sum())

        order = sorted(EXAMPLES, key=lambda client: error([client]))
        soup = order[:1]
        for client in order[1:]:
            soup = [*soup, client] if error([*soup, client]) <= error(soup) else soup
        io = Kitchen(deltas)
        state = stepped(GreedySoup(), io)
        np.testing.assert_allclose(state.params["x"].numpy(), mean_of(soup, deltas), atol=1e-12)
        assert set(io.left_out) == set(EXAMPLES) - set(soup)
        assert state.facts == {"kept": len(soup), "left_out": 4 - len(soup)}
        assert io.judged == 2 * 4 - 1
        sizes.add(len(soup))
    assert len(sizes) > 2


def test_a_greedy_soup_drops_a_bad_client() -> None:
    io = Kitchen()
    stepped(GreedySoup(), io)
    assert "bad" in io.left_out


def test_a_client_that_changes_nothing_of_the_score_is_kept() -> None:
    io = Kitchen(dict.fromkeys(EXAMPLES, DELTAS["a"]))
    io.judge = lambda params: (0.5, -float(params["x"].sum()))  # type: ignore[method-assign]
    assert stepped(GreedySoup(), io).facts == {"kept": 4, "left_out": 0}


@pytest.mark.parametrize("protocol", [GreedySoup(), LearnedSoup()])
def test_an_empty_cohort_changes_nothing(protocol: Protocol) -> None:
    state = stepped(protocol, Kitchen({}))
    assert (state.round, state.params["x"].tolist(), dict(state.facts)) == (1, START.tolist(), {})


def test_ingredients_come_back_from_disk_as_they_were() -> None:
    groups = {
        TUNABLE: {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5, dtype=torch.float64)},
        "control": {"a": torch.tensor([1, 2], dtype=torch.int8), "none": torch.empty(0, 3)},
    }
    contribution, done = Contribution("1", 2, 3), Done(client="1", examples=2)
    found = Ingredients()
    for client, factor in (("2", 2), ("1", 1)):
        scaled = {group: {n: factor * t for n, t in tensors.items()} for group, tensors in groups.items()}
        found.add(ClientUpdate(client, scaled, done, contribution, {"a": ()}))
    assert list(found) == ["2", "1"]
    back = found["1"]
    assert (back.contribution, back.facts, back.slices) == (contribution, done, {"a": ()})
    for group, tensors in groups.items():
        assert back.groups[group].keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(back.groups[group][name], tensor, rtol=0, atol=0)
            assert back.groups[group][name].dtype == tensor.dtype
    assert found["2"].groups[TUNABLE]["a"][1, 2].item() == 10.0


class Rows:
    """Examples of a linear model: rows of numbers."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def take(self, chosen: np.ndarray[Any, Any]) -> Tensor:
        return self.values[torch.from_numpy(np.asarray(chosen))]


class LinearTunable:
    """y = ⟨x, w⟩."""

    def __init__(self) -> None:
        self.model = self
        self.parameters = {"x": torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))}

    def write(self, params: Params) -> None:
        self.parameters["x"].data.copy_(params["x"])

    def eval(self) -> None:
        pass


def with_linear_model(io: Kitchen, inputs: Tensor, targets: Tensor) -> Kitchen:
    task = SimpleNamespace(
        outputs=lambda model, batch: batch["x"] @ model.parameters["x"],
        losses=lambda outputs, batch: ((outputs - batch["y"]) ** 2, torch.ones(len(outputs))),
        collate=lambda processor, seed: lambda rows: {"x": rows[:, :3], "y": rows[:, 3]},
    )
    here = SimpleNamespace(tunable=LinearTunable(), task=task, processor=None, device=torch.device("cpu"))
    io.student = SimpleNamespace(evaluator=here)  # type: ignore[attr-defined]
    io.validation = Rows(torch.cat([inputs, targets[:, None]], 1))  # type: ignore[attr-defined]
    return io


def test_learned_weights_are_those_of_autograd_through_the_mixture() -> None:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, generator=rng, dtype=torch.float64)
    targets = inputs @ torch.from_numpy(BEST)
    protocol = LearnedSoup(steps=12, batch_size=8, learning_rate=0.2)  # whole batches: their order changes nothing
    io = with_linear_model(Kitchen(), inputs, targets)
    state = stepped(protocol, io)
    deltas = torch.stack([torch.from_numpy(delta) for delta in DELTAS.values()])
    alpha = torch.tensor([float(EXAMPLES[client]) for client in DELTAS], dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.Adam([alpha], lr=0.2)
    losses = []
    for _ in range(12):
        loss = ((inputs @ (torch.from_numpy(START) + alpha.softmax(0) @ deltas) - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    p = alpha.detach().softmax(0)
    torch.testing.assert_close(torch.tensor(list(io.weights.values()), dtype=torch.float64), p, rtol=0, atol=1e-10)
    torch.testing.assert_close(state.params["x"], torch.from_numpy(START) + p @ deltas, rtol=0, atol=1e-10)
    assert state.facts["mixing_loss"] == pytest.approx(np.mean(losses), abs=1e-10)
    assert io.weights["bad"] < 0.1 < EXAMPLES["bad"] / 10  # its share in FedAvg is 0.3


def test_without_steps_a_learned_soup_is_fedavg() -> None:
    io = with_linear_model(Kitchen(), torch.ones(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    state = stepped(LearnedSoup(steps=0), io)
    np.testing.assert_allclose(state.params["x"].numpy(), mean_of(list(EXAMPLES), DELTAS), atol=1e-12)


def test_what_is_minimised_without_labels() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    each, mean = -(p * np.log(p)).sum(1).mean(), p.mean(0)
    assert undecided(logits).item() == pytest.approx(each + (mean * np.log(mean)).sum(), abs=1e-12)
    certain = torch.eye(4) * 1000
    assert undecided(certain).item() == pytest.approx(-np.log(4), abs=1e-6)
    assert undecided(certain[:1].expand(4, 4)).item() == pytest.approx(0.0, abs=1e-6)  # one class for everything
    assert undecided(torch.zeros(4, 4)).item() == pytest.approx(0.0, abs=1e-6)


def with_a_bad_client(folder: Path, **changes: Any) -> dict[str, Any]:
    """Four clients, of which `d` has the wrong labels."""
    values = small_recipe(folder)
    words = list(WORDS)
    for name, count, start in (("train", 144, 0), ("test", 24, 500), ("validation", 36, 900)):
        rows = [(i, words[i % 6], "abcd"[i // 6 % 4]) for i in range(start, start + count)]
        lines = [
            {"text": f"{word} thing {i}", "label": 1 - WORDS[word] if site == "d" else WORDS[word], "site": site}
            if name == "train"
            else {"text": f"{word} thing {i}", "label": WORDS[word], "site": site}
            for i, word, site in rows
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {**values["data"], "client": "site", "validation": str(folder / "validation.jsonl")}
    return {
        **values,
        "data": data,
        "federation": {"rounds": 1},
        "local": {"batch_size": 6, "learning_rate": 0.02, "epochs": 12},
        "runtime": {"kind": "local", "processes": 1, "threads": 1},
        **changes,
    }


def test_a_run_drops_the_client_with_wrong_labels(tmp_path: Path) -> None:
    mean = run(with_a_bad_client(tmp_path, name="mean"))
    soup = run(with_a_bad_client(tmp_path, name="soup", protocol={"kind": "greedy-soup"}))
    assert [event["client"] for event in soup.events if event["kind"] == "left out"] == ["d"]
    assert soup.summary["protocol"] == {"kind": "greedy-soup", "kept": 3, "left_out": 1}
    assert mean.summary["final"]["accuracy"] < 0.7 < 0.9 < soup.summary["final"]["accuracy"]


def test_a_run_learns_that_a_client_has_wrong_labels(tmp_path: Path) -> None:
    finished = run(with_a_bad_client(tmp_path, protocol={"kind": "learned-soup", "steps": 30}))
    lines = [line for line in jsonl.records(finished.folder.metrics) if line["split"] == "mixing"]
    weights = {line["client"]: line["weight"] for line in lines}
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["d"] < 0.12  # a fourth in FedAvg, whose model is no better than chance; see the test above
    assert finished.summary["final"]["accuracy"] > 0.9


def test_public_texts_stay_at_the_server(tmp_path: Path) -> None:
    values = with_a_bad_client(tmp_path)
    public = {"data": str(tmp_path / "train.jsonl")}
    quick = {"kind": "learned-soup", "on": "public", "examples": 40, "steps": 5, "batch_size": 20}
    star = build_experiment(load_recipe(values))
    soup = build_experiment(load_recipe({**values, "public": public, "protocol": quick}))
    assert soup.message_bytes("a", 1) == star.message_bytes("a", 1)
    values["data"].pop("validation")
    finished = run({**values, "public": public, "protocol": quick})
    down = [line for line in jsonl.records(finished.folder.wire) if line["direction"] == "down"]
    assert all(not tensor["name"].startswith("public") for line in down for tensor in line["tensors"])
    assert -np.log(2) < finished.summary["protocol"]["mixing_loss"] < 0


@pytest.mark.parametrize(
    ("changes", "where", "reason"),
    [
        ({"protocol": {"kind": "greedy-soup"}}, "data.validation", "fraction such as 0.1"),
        ({"protocol": {"kind": "learned-soup"}}, "data.validation", "fraction such as 0.1"),
        ({"protocol": {"kind": "learned-soup", "on": "public"}}, "public", "builtin:pydoc"),
        (
            {"protocol": {"kind": "learned-soup"}, "aggregate": {"rule": "median"}},
            "aggregate.rule",
            "take the place of the rule",
        ),
        (
            {"protocol": {"kind": "learned-soup"}, "algorithm": {"name": "fedadam"}},
            "algorithm.name",
            "the learned mixture",
        ),
        ({"protocol": {"kind": "greedy-soup"}, "aggregate": {"rule": "fedex"}}, "aggregate.rule", "frozen weights"),
    ],
)
def test_what_a_soup_refuses(tmp_path: Path, changes: dict[str, Any], where: str, reason: str) -> None:
    values = {**small_recipe(tmp_path), **changes}
    if where != "data.validation":
        values["data"] = {**values["data"], "validation": 0.2}
    with pytest.raises(RecipeError) as caught:
        load_recipe(values)
    (problem,) = caught.value.problems
    assert (problem.where, reason in problem.message) == (where, True), str(problem)
