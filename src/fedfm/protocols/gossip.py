"""Gossip: clients exchange their tunables with their neighbours; there is no server.

Lian et al., Can Decentralized Algorithms Outperform Centralized Algorithms?, arXiv:1705.09056. Client i holds x_i; W is
a symmetric, doubly stochastic mixing matrix whose entries outside the topology are zero (Metropolis weights:
W_ij = 1 / (1 + max(d_i, d_j)) for neighbours of degrees d, W_ii = 1 − Σ_j W_ij). With Δ_i(x), what local training from
x changes:

    order: train-then-mix    x_i ← Σ_j W_ij (x_j + Δ_j(x_j))        local steps, then mixing
    order: mix-then-train    x_i ← Σ_j W_ij x_j + Δ_i(x_i)          D-PSGD, Algorithm 1, with one SGD step

On the complete graph the first is FedAvg with full participation and equal weights. The run evaluates and delivers the
mean of all x_i; `consensus_distance` is √(mean_i ‖x_i − x̄‖²).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch

from fedfm import capabilities
from fedfm.params import Params, add, map_params
from fedfm.protocols.base import Messages, Protocol, State
from fedfm.protocols.io import IO, Ask
from fedfm.wire import TUNABLE

AT_ONCE = 64
"""Clients whose tunables are in memory at a time."""

X, TRAINED = "gossip", "gossip-trained"
"""Names of what is kept for a client: x_i, and x_i + Δ_i within a round."""

Topology = Literal["ring", "complete"]


class Gossip(Protocol):
    """Clients exchange their tunables with their neighbours; there is no server."""

    kind: Literal["gossip"] = "gossip"
    """Clients exchange their tunables with their neighbours; there is no server."""
    topology: Topology = "ring"
    """Who is whose neighbour: two on a `ring` of the clients in the order of their ids; all on the `complete` graph."""
    order: Literal["train-then-mix", "mix-then-train"] = "train-then-mix"
    """Whether clients mix what they have trained, or train while they mix (D-PSGD)."""

    asks_everyone: ClassVar[bool] = True
    own_tunable: ClassVar[str | None] = X
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_MODEL: "each client has its own",
        capabilities.SERVER_STEP: "there is no server",
        capabilities.INDIVIDUAL_UPDATES: "there is no server",
        capabilities.UPDATE_PATH: "neighbours send each other whole tunables",
        capabilities.BARRIER: "every client takes part and is waited for",
        capabilities.PARTIAL_PARTICIPATION: "every client takes part in every round",
    }
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "neighbours average their tunables",
        capabilities.WHOLE_VIEWS: "neighbours mix every coordinate",
        capabilities.BACKBONE_WEIGHTS: "without a server, no one keeps a proxy and its backbone alike",
        capabilities.FIXED_COHORT: "every client takes part in every round",
        capabilities.SIMULATED_CLIENTS: "clients on machines of their own have no line to each other",
    }

    def step(self, state: State, io: IO) -> State:
        """All clients train, then all mix."""
        number, clients = state.round + 1, sorted(io.clients)
        answered = 0
        for start in range(0, len(clients), AT_ONCE):
            group = clients[start : start + AT_ONCE]
            own = {client: io.kept(X, client) or state.params for client in group}
            asks = {
                client: Ask(number, dict(params), learning_rate=io.learning_rate(number), counted=False)
                for client, params in own.items()
            }
            trained = dict(own)
            for update in io.ask(asks, quorum=False):
                trained[update.client] = add(own[update.client], dict(update.groups[TUNABLE]))
                answered += 1
            for client, params in trained.items():
                io.keep(TRAINED, client, params)
        io.require(answered, len(clients))
        mean = _Mean()
        for client in clients:
            mixed = self._mixed(client, clients, state, io)
            io.keep(X, client, mixed)
            mean.add(mixed)
        return State(number, mean.params(state.params), {}, {"consensus_distance": mean.distance()})

    def folds(self, cohort: int) -> None:
        """Clients mix by their own weights."""

    def messages(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """Every client sends its tunable to each of its neighbours."""
        ordered = sorted(clients)
        return Messages(peer=sum(len(set(self.neighbours(client, ordered))) for client in ordered))

    def figures(self, state: State) -> dict[str, float]:
        """The clients' distance from their mean."""
        return {name: float(value) for name, value in state.facts.items()}

    def _mixed(self, client: str, clients: list[str], state: State, io: IO) -> Params:
        """x_i after the round; counts what its neighbours send it."""
        fresh = self.order == "train-then-mix"
        total: Params = {}
        for neighbour, weight in self.weights(client, clients).items():
            values = io.kept(TRAINED, neighbour, fresh=True) if fresh else io.kept(X, neighbour) or state.params
            if values is None:
                raise ValueError(f"nothing is kept for client {neighbour}")
            if neighbour != client:
                io.peer(neighbour, client, values)
            term = map_params(lambda x, weight=weight: weight * x.double(), values)
            total = add(total, term) if total else term
        if not fresh:
            trained, before = io.kept(TRAINED, client, fresh=True), io.kept(X, client) or state.params
            if trained is None:
                raise ValueError(f"nothing is kept for client {client}")
            total = map_params(lambda x, new, old: x + (new.double() - old.double()), total, trained, before)
        return map_params(lambda like, x: x.to(like.dtype), state.params, total)

    def weights(self, client: str, clients: list[str]) -> dict[str, float]:
        """The row of W of one client, in the order of ``clients``: itself and its neighbours."""
        neighbours = set(self.neighbours(client, clients))
        row = {other: 1 / (1 + max(len(neighbours), len(set(self.neighbours(other, clients))))) for other in neighbours}
        row[client] = 1 - math.fsum(row.values())
        return {other: row[other] for other in clients if other in row}

    def neighbours(self, client: str, clients: list[str]) -> Iterator[str]:
        """The neighbours of a client."""
        place = clients.index(client)
        if self.topology == "complete":
            yield from (other for other in clients if other != client)
            return
        for other in (clients[place - 1], clients[(place + 1) % len(clients)]):
            if other != client:
                yield other


class _Mean:
    """The mean of tunables that come one by one, and how far they are from it."""

    def __init__(self) -> None:
        self._sum: Params = {}
        self._squares = 0.0
        self._count = 0

    def add(self, params: Params) -> None:
        wide = map_params(torch.Tensor.double, params)
        self._sum = add(self._sum, wide) if self._sum else wide
        self._squares += math.fsum(tensor.square().sum().item() for tensor in wide.values())
        self._count += 1

    def params(self, like: Params) -> Params:
        """The mean, in the dtypes of ``like``."""
        return map_params(lambda old, total: (total / self._count).to(old.dtype), like, self._sum)

    def distance(self) -> float:
        """√(mean_i ‖x_i − x̄‖²); the mean's square is subtracted, so a distance below about 1e-8·‖x̄‖ reads as 0."""
        norm = math.fsum((tensor / self._count).square().sum().item() for tensor in self._sum.values())
        return math.sqrt(max(self._squares / self._count - norm, 0.0))
