"""Hierarchical rounds against numpy, their messages, and star as the limit of one edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fedfm import run
from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import Algorithm, FedAvg, FedAvgM
from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.protocols import Ask, ClientUpdate, Hierarchical, State
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.spec import spec_of
from fedfm.updates import Done, UpdatePath
from fedfm.wire import TUNABLE, stored_bytes
from tests.alike import SGD
from tests.small import small_recipe

LR = 0.3
EXAMPLES = {"a": 1, "b": 4, "c": 2, "d": 3, "e": 5}
CENTRES = dict(zip(EXAMPLES, np.random.default_rng(0).normal(size=(5, 3)), strict=True))


class Clients:
    """Clients that take one gradient step towards their own centres; plays the part of `fedfm.protocols.IO`."""

    rule, up, seed, clients = Mean(weights="examples"), UpdatePath(), 0, EXAMPLES

    def __init__(self, algorithm: Algorithm, rounds: int, cohorts: list[str]) -> None:
        self.algorithm, self.rounds, self.cohorts = algorithm, rounds, cohorts
        self.spec = spec_of({"x": torch.zeros(3, dtype=torch.float64)})
        self.relayed: list[tuple[str, str]] = []

    def cohort(self, number: int) -> Mapping[str, int]:
        return dict.fromkeys(self.cohorts[(number - 1) % len(self.cohorts)], 1)

    def learning_rate(self, number: int) -> float:
        return LR

    def ask(self, asks: Mapping[str, Ask], *, copies: Mapping[str, int]) -> Iterator[ClientUpdate]:
        for client, ask in asks.items():
            delta = -LR * (ask.params["x"] - torch.from_numpy(CENTRES[client]))
            contribution = Contribution(client, EXAMPLES[client], 1, copies[client])
            done = Done(client=client, examples=EXAMPLES[client], steps=1)
            yield ClientUpdate(client, {TUNABLE: {"x": delta}}, done, contribution, {"x": ()})

    def require_updates(self, updates: int) -> None:
        assert updates

    def relay(self, direction: Literal["down", "up"], edge: str, params: Params) -> int:
        self.relayed.append((direction, edge))
        return stored_bytes(params)


def played(protocol: Hierarchical, io: Clients) -> list[State]:
    states = [protocol.start({"x": torch.zeros(3, dtype=torch.float64)}, io.algorithm)]
    for _ in range(io.rounds):
        states.append(protocol.step(states[-1], io))  # type: ignore[arg-type]
    return states


def by_hand(homes: Mapping[str, str], io: Clients, kappa: int) -> list[np.ndarray[Any, Any]]:
    """Algorithm 1 of arXiv:1905.06641 with clients that take part in some rounds; the server's w after each round."""
    w, found = np.zeros(3), []
    local: dict[str, np.ndarray[Any, Any]] = {}
    seen: dict[str, int] = {}
    for number in range(1, io.rounds + 1):
        for edge in sorted(set(homes.values())):
            members = [client for client in io.cohort(number) if homes[client] == edge]
            if not members:
                continue
            model, n = local.get(edge, w), sum(EXAMPLES[client] for client in members)
            ends = {client: model - LR * (model - CENTRES[client]) for client in members}
            local[edge] = sum(EXAMPLES[client] / n * ends[client] for client in members)
            seen[edge] = seen.get(edge, 0) + n
        if number % kappa == 0 or number == io.rounds:
            w = sum(seen[edge] * local[edge] for edge in local) / sum(seen.values())
            local, seen = {}, {}
        found.append(w)
    return found


@pytest.mark.parametrize(("edges", "kappa", "rounds"), [(2, 1, 3), (2, 2, 5), (3, 3, 6), (5, 2, 4)])
def test_it_equals_the_papers_algorithm(edges: int, kappa: int, rounds: int) -> None:
    io = Clients(FedAvg(), rounds, ["abcde", "ace", "bd"])
    protocol = Hierarchical(edges=edges, edge_rounds=kappa)
    states = played(protocol, io)
    expected = by_hand(protocol.homes(list(EXAMPLES), 0), io, kappa)
    for state, w in zip(states[1:], expected, strict=True):
        np.testing.assert_allclose(state.params["x"].numpy(), w, atol=1e-12)


def test_edges_and_server_send_each_other_two_messages_for_each_step() -> None:
    io = Clients(FedAvgM(), 5, ["abcde"])
    states = played(Hierarchical(edges=2, edge_rounds=2), io)
    step = [("down", "edge-0"), ("down", "edge-1"), ("up", "edge-0"), ("up", "edge-1")]
    assert io.relayed == step * 3  # after rounds 2 and 4, and after the last
    size = stored_bytes({"x": torch.zeros(3, dtype=torch.float64)})
    assert Hierarchical().figures(states[-1]) == {"edge_server_bytes": 12 * size}
    assert "velocity" in states[1].server
    assert states[1].server["velocity"]["x"].count_nonzero() == 0
    assert states[2].server["velocity"]["x"].count_nonzero() == 3


def test_clients_are_dealt_in_equal_numbers() -> None:
    homes = Hierarchical(edges=3).homes([f"{number}" for number in range(10)], seed=1)
    sizes = [list(homes.values()).count(f"edge-{number}") for number in range(3)]
    assert sorted(sizes) == [3, 3, 4]
    assert homes != Hierarchical(edges=3).homes([f"{number}" for number in range(10)], seed=2)
    with pytest.raises(RecipeError, match="6 edges are more than the 5 clients"):
        Hierarchical(edges=6).homes(list(EXAMPLES), seed=1)


METHODS: dict[str, dict[str, Any]] = {
    "fedexp, int8": {
        "algorithm": {"name": "fedexp", "epsilon": 1e-6},
        "updates": [{"kind": "quantize", "direction": "both"}],
    },
    "scaffold": {"algorithm": {"name": "scaffold"}, "local": SGD},
    "median": {"aggregate": {"rule": "median"}, "algorithm": {"name": "fedadam"}},
}


@pytest.mark.parametrize("method", METHODS)
def test_one_edge_that_sends_every_round_is_a_star_bit_for_bit(method: str, tmp_path: Path) -> None:
    adapters = []
    for protocol in ({"kind": "star"}, {"kind": "hierarchical", "edges": 1, "edge_rounds": 1}):
        changes = {**METHODS[method], "federation": {"clients": 6, "per_round": 3, "rounds": 2}}
        finished = run(small_recipe(tmp_path, name=protocol["kind"], protocol=protocol, **changes))
        adapters.append((finished.folder.adapter / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_the_ledger_tells_edges_and_clients_apart(tmp_path: Path) -> None:
    protocol = {"kind": "hierarchical", "edges": 2, "edge_rounds": 2}
    finished = run(small_recipe(tmp_path, protocol=protocol))
    lines = [line for line in jsonl.records(finished.folder.wire) if line.get("kind") == "edge"]
    assert [(line["round"], line["direction"], *line["clients"]) for line in lines] == [
        (number, direction, edge)
        for first in (1, 3)
        for number, direction in ((first, "down"), (first + 1, "up"))
        for edge in ("edge-0", "edge-1")
    ]
    summary = finished.summary
    assert summary["protocol"] == {
        "kind": "hierarchical",
        "edge_server_bytes": sum(line["bytes"] for line in lines),
    }
    assert summary["bytes"]["down"] > 2 * sum(line["bytes"] for line in lines if line["direction"] == "down")


def test_what_edges_cannot_do_is_refused(tmp_path: Path) -> None:
    def recipe(**changes: Any) -> dict[str, Any]:
        return small_recipe(tmp_path, protocol={"kind": "hierarchical"}, **changes)

    load_recipe(recipe())
    fednova = {"algorithm": {"name": "fednova"}, "local": SGD}
    with pytest.raises(RecipeError, match="edges train on before the server's step"):
        load_recipe(recipe(**fednova))
    load_recipe(small_recipe(tmp_path, protocol={"kind": "hierarchical", "edge_rounds": 1}, **fednova))
    with pytest.raises(RecipeError, match="whole views"):
        load_recipe(recipe(tune={"kind": "lora", "share": "not head"}))
