"""Gossip: FedAvg on the complete graph; D-PSGD's order, CHOCO, ADF-LoRA and absent clients by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm import Run, resume, run
from fedfm.aggregation import Contribution
from fedfm.errors import InterruptedRunError, RecipeError
from fedfm.params import Params, load
from fedfm.protocols import Ask, ClientUpdate, Gossip, State
from fedfm.protocols.graphs import Complete, Exponential, Graph, Ring, Torus
from fedfm.protocols.graphs import matrix as mixing_matrix
from fedfm.recipe import load_recipe
from fedfm.records import jsonl
from fedfm.spec import spec_of
from fedfm.trackers.listeners import Listener
from fedfm.updates import Done, UpdatePath
from fedfm.updates.stages import Quantize, TopK
from fedfm.updates.stages.base import Stage
from fedfm.wire import TUNABLE
from tests.small import small_recipe

CENTRES = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-4.0, 0.25], [2.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
LR = 0.3


class Clients:
    """Clients that take one gradient step towards their own centres; plays the part of `fedfm.protocols.IO`."""

    seed = 3
    simulated = True
    start: Mapping[str, Tensor] = {"x": torch.zeros(2, dtype=torch.float64)}
    spec = spec_of(start)
    rule = SimpleNamespace(fixed=lambda spec: frozenset[str]())

    def __init__(self, count: int, steps: int = 1, stages: Sequence[Stage] = ()) -> None:
        self.clients = {f"{number}": 1 for number in range(count)}
        self.peer_path = UpdatePath(tuple(stages))
        self.figures: dict[str, float] = {}
        self.steps = steps
        self.stored: dict[tuple[str, str, int], Params] = {}
        self.round = 0
        self.peers: list[tuple[str, list[str]]] = []

    def learning_rate(self, number: int) -> float:
        return LR

    def ask(self, asks: Mapping[str, Ask], *, quorum: bool = True) -> Iterator[ClientUpdate]:
        for client, ask in asks.items():
            x = ask.params["x"]
            for _ in range(self.steps):
                x = x - ask.learning_rate * (x - CENTRES[int(client)])
            done = Done.model_construct(client=client)
            yield ClientUpdate(client, {TUNABLE: {"x": x - ask.params["x"]}}, done, Contribution(client, 1, 1), {})

    def require(self, accepted: int, wanted: int) -> None:
        assert accepted == wanted

    def keep(self, name: str, client: str, params: Params) -> None:
        self.stored[name, client, self.round] = params

    def record(self, figures: Mapping[str, float]) -> None:
        self.figures |= figures

    def kept(self, name: str, client: str, *, fresh: bool = False) -> Params | None:
        rounds = [self.round] if fresh else range(self.round - 1, 0, -1)
        return next((found for number in rounds if (found := self.stored.get((name, client, number)))), None)

    def peer(self, sender: str, receivers: Sequence[str], params: Mapping[str, Tensor]) -> int:
        self.peers.append((sender, list(receivers)))
        return sum(tensor.numel() * tensor.element_size() for tensor in params.values())

    def values(self, number: int) -> Tensor:
        return torch.stack([self.stored["gossip", client, number]["x"] for client in self.clients])


def played(protocol: Gossip, io: Clients, rounds: int) -> Iterator[State]:
    state = State(0, {"x": torch.zeros(2, dtype=torch.float64)})
    for number in range(1, rounds + 1):
        io.round = number
        state = protocol.step(state, io)  # type: ignore[arg-type]
        yield state


def matrix(graph: Graph, count: int) -> Tensor:
    return torch.from_numpy(mixing_matrix(graph.senders([f"{number}" for number in range(count)], 1)))


def test_on_the_complete_graph_it_is_fedavg_with_equal_weights() -> None:
    w = torch.zeros(2, dtype=torch.float64)
    for state in played(Gossip(graph=Complete()), Clients(5, steps=4), 6):
        trained = []
        for centre in CENTRES:
            x = w
            for _ in range(4):
                x = x - LR * (x - centre)
            trained.append(x)
        w = torch.stack(trained).mean(0)
        torch.testing.assert_close(state.params["x"], w, rtol=0, atol=1e-12)
        assert state.facts["consensus_distance"] < 1e-7


Order = Callable[[Tensor, Tensor], Tensor]
ORDERS: dict[str, Order] = {
    "train-then-mix": lambda weights, x: weights @ (x - LR * (x - CENTRES)),
    "mix-then-train": lambda weights, x: weights @ x - LR * (x - CENTRES),
}


@pytest.mark.parametrize("order", ORDERS)
def test_both_orders_by_hand(order: Any) -> None:
    """`mix-then-train` is D-PSGD, Algorithm 1: X ← W·X − η·∇F(X), with the gradient at each client's own values."""
    io = Clients(5)
    weights, x = matrix(Ring(), 5), torch.zeros(5, 2, dtype=torch.float64)
    for number, state in enumerate(played(Gossip(order=order), io, 4), start=1):
        x = ORDERS[order](weights, x)
        torch.testing.assert_close(io.values(number), x, rtol=0, atol=1e-14)
        torch.testing.assert_close(state.params["x"], x.mean(0), rtol=0, atol=1e-14)
        distance = (x - x.mean(0)).square().sum(1).mean().sqrt().item()
        assert state.facts["consensus_distance"] == pytest.approx(distance, abs=1e-7)


def test_neighbours_send_each_other_their_values_once_a_round() -> None:
    io = Clients(4)
    list(played(Gossip(), io, 1))
    assert io.peers == [(f"{place}", sorted([f"{(place - 1) % 4}", f"{(place + 1) % 4}"])) for place in range(4)]
    assert Gossip().messages(list(io.clients), 0, 0).peer == 8
    assert Gossip(absence=0.5).messages(list(io.clients), 0, 0).peer == 2
    assert Gossip(graph=Exponential(), absence=0.5).messages(list(io.clients), 0, 0).peer == 2


def test_choco_by_hand() -> None:
    """Algorithm 2 of arXiv:1902.00340 with top-1 of two coordinates; x̂ starts at the common x_0."""
    stage, gamma = TopK(share=0.5, error_feedback=False), 0.4
    io = Clients(5, stages=[stage])
    weights = matrix(Ring(), 5)
    x = torch.zeros(5, 2, dtype=torch.float64)
    public = x.clone()
    for number, state in enumerate(played(Gossip(gamma=gamma), io, 60), start=1):
        half = x - LR * (x - CENTRES)
        difference = half - public
        largest = difference.abs().argmax(1, keepdim=True)
        public = public + torch.zeros_like(x).scatter(1, largest, difference.gather(1, largest))
        x = half + gamma * (weights @ public - public)
        torch.testing.assert_close(io.values(number), x, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.params["x"], half.mean(0), rtol=0, atol=1e-12)  # mixing keeps the mean
    torch.testing.assert_close(state.params["x"], CENTRES.mean(0), rtol=0, atol=1e-6)


def test_differences_that_lose_nothing_are_train_then_mix() -> None:
    whole, split = Clients(5), Clients(5, stages=[TopK(share=1.0, error_feedback=False)])
    list(played(Gossip(), whole, 3))
    list(played(Gossip(), split, 3))
    torch.testing.assert_close(split.values(3), whole.values(3), rtol=0, atol=1e-14)


def test_clients_with_the_same_values_agree_although_differences_are_rounded() -> None:
    """What is quantised is the difference from x̂, so that the error falls with the distance (CHOCO-Gossip)."""
    io = Clients(5, steps=0, stages=[Quantize(bits=4)])
    start = {f"{number}": CENTRES[number] for number in range(5)}
    for client, values in start.items():
        io.stored["gossip", client, 0] = {"x": values}
    io.kept = lambda name, client, *, fresh=False: io.stored.get((name, client, io.round if fresh else io.round - 1))  # type: ignore[method-assign]
    distances = [state.facts["consensus_distance"] for state in played(Gossip(gamma=0.7), io, 80)]
    assert distances[-1] < 1e-3 * distances[0]
    torch.testing.assert_close(io.values(80).mean(0), CENTRES.mean(0), rtol=0, atol=1e-9)


def test_absent_clients_neither_train_nor_mix() -> None:
    protocol, io = Gossip(graph=Complete(), absence=0.5), Clients(5)
    clients, x = list(io.clients), torch.zeros(5, 2, dtype=torch.float64)
    counts = []
    for number, state in enumerate(played(protocol, io, 12), start=1):
        here = [int(client) for client in protocol.present(clients, io.seed, number)]
        counts.append(len(here))
        if here:
            trained = x - LR * (x - CENTRES)
            x = x.clone()
            x[here] = trained[here].mean(0)
        torch.testing.assert_close(io.values(number), x, rtol=0, atol=1e-12)
        torch.testing.assert_close(state.params["x"], x.mean(0), rtol=0, atol=1e-12)
        assert io.figures["present"] == len(here)
    assert len(set(counts)) > 2
    assert protocol.present(clients, io.seed, 1) == protocol.present(clients, io.seed, 1)
    assert Gossip().present(clients, io.seed, 1) == clients


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "error feedback": ({"updates": [{"kind": "top-k"}]}, "set error_feedback=false"),
    "a stage of the server": ({"updates": [{"kind": "quantize", "direction": "both"}]}, "needs messages of a server"),
    "differences of D-PSGD": (
        {"updates": [{"kind": "quantize"}], "protocol": {"kind": "gossip", "order": "mix-then-train"}},
        "sends what clients had before training",
    ),
    "differences to changing receivers": (
        {"updates": [{"kind": "quantize"}], "protocol": {"kind": "gossip", "graph": {"kind": "exponential"}}},
        "compressed differences need receivers",
    ),
    "differences and absent clients": (
        {"updates": [{"kind": "quantize"}], "protocol": {"kind": "gossip", "absence": 0.1}},
        "an absent client misses differences",
    ),
    "a cohort": (
        {"federation": {"clients": 6, "per_round": 3}},
        "every client takes part, but for those that protocol.absence draws",
    ),
    "an unknown graph": ({"protocol": {"kind": "gossip", "graph": {"kind": "star"}}}, "ring"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gossip_does_not_go_with_is_refused_when_the_recipe_is_read(case: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[case]
    whole: dict[str, Any] = {"protocol": {"kind": "gossip"}, "federation": {"clients": 6}, **changes}
    with pytest.raises(RecipeError, match=reason):
        load_recipe(small_recipe(tmp_path, **whole))


SGD = {"batch_size": 5, "learning_rate": 0.05, "optimizer": "sgd", "max_grad_norm": None, "momentum": 0.9}


def played_run(folder: Path, name: str, listeners: Sequence[Listener] = (), **changes: Any) -> Run:
    federation = {"clients": 4, "rounds": 2, "partition": {"kind": "dirichlet", "alpha": 1.0}}
    whole = {"name": name, "federation": federation, "local": {**SGD, "max_steps": 2}, "evaluate": {"every": 2}}
    runtime = {"runtime": {"processes": 1}}
    return run(load_recipe(small_recipe(folder, **{**whole, **runtime, **changes})), listeners=listeners)


def test_a_run_on_the_complete_graph_is_fedavg(tmp_path: Path) -> None:
    """DFedAvgM with equal weights; values are float32, and the two sums are rounded once a round each."""
    gossip = played_run(tmp_path, "gossip", protocol={"kind": "gossip", "graph": {"kind": "complete"}})
    star = played_run(tmp_path, "star", aggregate={"rule": "mean", "weights": "uniform"})
    mine, theirs = (load(run.folder.adapter / "adapter_model.safetensors") for run in (gossip, star))
    for name, values in theirs.items():
        torch.testing.assert_close(mine[name], values, rtol=1e-5, atol=1e-7)
    assert gossip.summary["protocol"]["spectral_gap"] == pytest.approx(1)


class Stopper(Listener):
    """Ends a run after a round."""

    def on_round(self, record: dict[str, Any]) -> None:
        if record["round"] == 1:
            raise KeyboardInterrupt


def test_adf_lora_trains_a_factor_a_round_mixes_both_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """With compressed differences; the wire has as many bytes as the plan says."""
    changes: dict[str, Any] = {
        "protocol": {"kind": "gossip", "gamma": 0.5},
        "aggregate": {"rule": "rolora"},
        "updates": [{"kind": "quantize", "bits": 8}],
    }
    straight = played_run(tmp_path, "straight", **changes)
    with pytest.raises((KeyboardInterrupt, InterruptedRunError)):
        played_run(tmp_path, "stopped", [Stopper()], **changes)
    resumed = resume(tmp_path / "runs" / "stopped")
    for run_ in (straight, resumed):
        assert run_.summary["status"] == "completed"
    mine, theirs = (load(run_.folder.adapter / "adapter_model.safetensors") for run_ in (straight, resumed))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    lines = [line for line in jsonl.records(straight.folder.wire) if line["direction"] == "peer"]
    assert len(lines) == 2 * 4
    assert all(len(line["clients"]) == 3 for line in lines)
    sent = sum(line["bytes"] * 2 for line in lines)
    assert straight.summary["bytes"]["up"] == sent
    assert lines[0]["bytes"] == straight.summary["protocol"]["edge_bytes"]


def test_a_torus_that_the_clients_do_not_fill_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"protocol\.graph: 5 clients do not fill a grid"):
        played_run(
            tmp_path, "torus", protocol={"kind": "gossip", "graph": Torus().model_dump()}, federation={"clients": 5}
        )
