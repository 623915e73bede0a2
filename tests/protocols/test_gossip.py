"""Gossip: mixing matrices, FedAvg on the complete graph, and D-PSGD's own order by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedfm.aggregation import Contribution
from fedfm.params import Params
from fedfm.protocols import Ask, ClientUpdate, Gossip, State
from fedfm.updates import Done
from fedfm.wire import TUNABLE

CENTRES = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-4.0, 0.25], [2.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
LR = 0.3


class Clients:
    """Clients that take one gradient step towards their own centres; plays the part of `fedfm.protocols.IO`."""

    def __init__(self, count: int, steps: int = 1) -> None:
        self.clients = {f"{number}": 1 for number in range(count)}
        self.steps = steps
        self.stored: dict[tuple[str, str, int], Params] = {}
        self.round = 0
        self.peers: list[tuple[str, str]] = []

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

    def kept(self, name: str, client: str, *, fresh: bool = False) -> Params | None:
        return self.stored.get((name, client, self.round if fresh else self.round - 1))

    def peer(self, sender: str, receiver: str, params: Params) -> None:
        self.peers.append((sender, receiver))


def played(protocol: Gossip, io: Clients, rounds: int) -> Iterator[State]:
    state = State(0, {"x": torch.zeros(2, dtype=torch.float64)})
    for number in range(1, rounds + 1):
        io.round = number
        state = protocol.step(state, io)  # type: ignore[arg-type]
        yield state


def matrix(protocol: Gossip, count: int) -> Tensor:
    clients = [f"{number}" for number in range(count)]
    rows = [protocol.weights(client, clients) for client in clients]
    return torch.tensor([[row.get(client, 0.0) for client in clients] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("topology", ["ring", "complete"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
def test_metropolis_weights_are_symmetric_and_sum_to_one(topology: Any, count: int) -> None:
    weights = matrix(Gossip(topology=topology), count)
    ones = torch.ones(count, dtype=torch.float64)
    torch.testing.assert_close(weights.sum(0), ones, rtol=0, atol=1e-15)
    torch.testing.assert_close(weights.sum(1), ones, rtol=0, atol=1e-15)
    assert torch.equal(weights, weights.T)
    assert (weights >= 0).all()


def test_a_ring_mixes_thirds() -> None:
    third = 1 / 3
    expected = [
        [third, third, 0, 0, third],
        [third, third, third, 0, 0],
        [0, third, third, third, 0],
        [0, 0, third, third, third],
        [third, 0, 0, third, third],
    ]
    torch.testing.assert_close(matrix(Gossip(), 5), torch.tensor(expected, dtype=torch.float64))


def test_on_the_complete_graph_it_is_fedavg_with_equal_weights() -> None:
    w = torch.zeros(2, dtype=torch.float64)
    for state in played(Gossip(topology="complete"), Clients(5, steps=4), 6):
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
    weights, x = matrix(Gossip(), 5), torch.zeros(5, 2, dtype=torch.float64)
    for number, state in enumerate(played(Gossip(order=order), io, 4), start=1):
        x = ORDERS[order](weights, x)
        kept = torch.stack([io.stored["gossip", client, number]["x"] for client in io.clients])
        torch.testing.assert_close(kept, x, rtol=0, atol=1e-14)
        torch.testing.assert_close(state.params["x"], x.mean(0), rtol=0, atol=1e-14)
        distance = (x - x.mean(0)).square().sum(1).mean().sqrt().item()
        assert state.facts["consensus_distance"] == pytest.approx(distance, abs=1e-7)


def test_neighbours_send_each_other_their_values_once_a_round() -> None:
    io = Clients(4)
    list(played(Gossip(), io, 1))
    assert sorted(io.peers) == sorted(
        (f"{sender}", f"{receiver % 4}") for sender in range(4) for receiver in (sender - 1, sender + 1)
    )
