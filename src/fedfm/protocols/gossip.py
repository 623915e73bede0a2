"""Gossip: clients exchange their tunables with their neighbours; there is no server.

Client i holds x_i, at first x_0 for all. W is the mixing matrix of a graph (`graphs/mixing.py`). With Δ_i(x), what
local training from x changes, and y_i = x_i + Δ_i(x_i), in each round

    x_i ← y_i + γ · ( Σ_j W_ij·v_j − v_i ),      v_i what client i has sent its neighbours:

    order: train-then-mix    v = y               x_i ← Σ_j W_ij·y_j                   where γ = 1
    order: mix-then-train    v = x               x_i ← Σ_j W_ij·x_j + Δ_i(x_i)        where γ = 1
    with `updates`           v = x̂               x̂_i ← x̂_i + Q(y_i − x̂_i),  x̂_i = x_0 at first; only Q(…) is sent

`mix-then-train` with one SGD step is D-PSGD: Lian et al., Can Decentralized Algorithms Outperform Centralized
Algorithms?, arXiv:1705.09056, Algorithm 1. `train-then-mix` with several steps and `local.momentum` is DFedAvgM: Sun et
al., Decentralized Federated Averaging, arXiv:2104.11375, Algorithm 1; on the complete graph it is FedAvg with full
participation and equal weights. With the stages Q of `updates` it is CHOCO-SGD: Koloskova et al., Decentralized
Stochastic Optimization and Gossip Algorithms with Compressed Communication, arXiv:1902.00340, Algorithm 2, whose x̂
starts at 0; client i and its neighbours each keep a copy of x̂_i. With a rule that trains one factor of LoRA a round,
both factors are mixed in all rounds: ADF-LoRA, arXiv:2511.18291.

Σ_i x_i is that of y_i, whatever γ and Q are, since rows and columns of W sum to 1. The run evaluates and delivers the
mean x̄ of all x_i; `consensus_distance` is √(mean_i ‖x_i − x̄‖²). A client that is absent in a round neither trains nor
mixes; W is then that of the graph of the others.

Sites have no line to each other, so the server that relays their messages mixes in their place: it sends each site
x_i and gets Δ_i(x_i). It sees all values, which a relay of these messages would as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.errors import RecipeError
from fedfm.params import Params, add, map_params, subtract
from fedfm.protocols.base import Messages, Protocol, State
from fedfm.protocols.graphs import AnyGraph, Ring, Senders, metropolis, spectral_gap
from fedfm.protocols.io import IO, Ask
from fedfm.randomness import numpy_generator
from fedfm.settings import Capabilities
from fedfm.spec import spec_of
from fedfm.updates import MessageKey
from fedfm.wire import TUNABLE

AT_ONCE = 64
"""Clients whose tunables are in memory at a time."""

X, TRAINED, PUBLIC = "gossip", "gossip-trained", "gossip-public"
"""Names of what is kept for a client: x_i; y_i within a round; x̂_i, of which its neighbours have copies."""

DISTANCE, GAP, BYTES, GRAPH = "consensus_distance", "spectral_gap", "edge_bytes", "graph"
"""Facts: of the last round; of the graph; of a message between two clients; the digest of the graph's file."""


class Gossip(Protocol):
    """Clients exchange their tunables with their neighbours; there is no server."""

    kind: Literal["gossip"] = "gossip"
    """Clients exchange their tunables with their neighbours; there is no server."""
    graph: AnyGraph = Ring()
    """Who is whose neighbour."""
    order: Literal["train-then-mix", "mix-then-train"] = "train-then-mix"
    """Whether clients mix what they have trained, or train while they mix (D-PSGD)."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ: how far a client moves to the mean of its neighbours in a round. With `updates` that compress much, 1 is too
    far and diverges: about the share that crosses is safe."""
    absence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a client is absent in a round, drawn for each client and round; the others mix without it."""

    asks_everyone: ClassVar[bool] = True
    peer_stages: ClassVar[bool] = True
    own_tunable: ClassVar[str | None] = X
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_MODEL: "each client has its own",
        capabilities.SERVER_STEP: "there is no server",
        capabilities.SERVER_MESSAGES: "there is no server",
        capabilities.INDIVIDUAL_UPDATES: "there is no server",
        capabilities.UPDATES_AS_SENT: "the next difference has what the last one left out; set error_feedback=false",
        capabilities.BARRIER: "there is no server whose state all clients of a round share",
        capabilities.PARTIAL_PARTICIPATION: "every client takes part, but for those that protocol.absence draws",
    }
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "neighbours average their tunables",
        capabilities.WHOLE_VIEWS: "neighbours mix every coordinate",
        capabilities.BACKBONE_WEIGHTS: "without a server, no one keeps a proxy and its backbone alike",
        capabilities.FIXED_COHORT: "protocol.absence says how many clients take part",
    }

    def capabilities(self) -> Capabilities:
        """Also what compressed differences, the stages of `updates`, do not go with."""
        said = super().capabilities()
        why = {
            "order: mix-then-train sends what clients had before training": self.order == "mix-then-train",
            "an absent client misses differences, which its neighbours never send again": self.absence > 0,
        }
        reasons = [reason for reason, holds in why.items() if holds]
        takes = {**said.takes, capabilities.UPDATE_PATH: "; ".join(reasons)} if reasons else said.takes
        return Capabilities(said.needs, said.gives, takes)

    def check(self, clients: Sequence[str]) -> None:
        """Refuses a graph that is not connected, or that there is not."""
        self.graph.check(sorted(clients))

    def planned(self, clients: Sequence[str]) -> dict[str, float]:
        """Messages of a round, and the spectral gap of the graph."""
        gap, rounds = spectral_gap(self.graph, sorted(clients)), self.graph.period(len(clients))
        figures: dict[str, float] = {"messages_a_round": round(self.messages(clients, 0, 0).peer)}
        return {**figures, **({} if gap is None else {GAP: gap, "gap_over_rounds": rounds})}

    def step(self, state: State, io: IO) -> State:
        """All clients that are there train, and then mix."""
        number, clients, digest = state.round + 1, sorted(io.clients), self.graph.digest
        if state.facts.get(GRAPH, digest) != digest:
            raise RecipeError(f"the file has changed since round {state.round}: restore it", where="protocol.graph")
        senders = self.graph.among(self.present(clients, io.seed, number), clients, number)
        self._train(list(senders), number, io)
        size = self._send(senders, number, io) if io.simulated else None
        rows, mean = metropolis(senders), _Mean()
        for client in clients:
            mixed = self._mixed(client, rows[client], io) if client in rows else _own(client, io)
            io.keep(X, client, mixed)
            mean.add(mixed)
        io.record({"present": len(senders)})
        gap = state.facts[GAP] if GAP in state.facts else spectral_gap(self.graph, clients)
        facts = {DISTANCE: mean.distance(), GAP: gap, BYTES: size, GRAPH: digest}
        return State(number, mean.params(state.params), {}, facts)

    def folds(self, cohort: int) -> None:
        """Clients mix by their own weights."""

    def messages(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """Every client that is there sends to each of its neighbours that is there."""
        ordered = sorted(clients)
        period = self.graph.period(len(ordered))
        rounds = [self.graph.senders(ordered, number) for number in range(1, period + 1)]
        sent = sum(len(others) for graph in rounds for others in graph.values()) / period
        return Messages(peer=sent * self.graph.attendance(self.absence))

    def messages_of_sites(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """Every site that is there gets its values, and sends what it changed."""
        present = round(len(clients) * (1 - self.absence))
        return Messages(down=present, up=present)

    def figures(self, state: State) -> dict[str, float]:
        """The clients' distance from their mean, the spectral gap and the bytes of a message between two clients.

        Sites send each other nothing, so there are no such bytes.
        """
        return {name: state.facts[name] for name in (DISTANCE, GAP, BYTES) if state.facts.get(name) is not None}

    def present(self, clients: Sequence[str], seed: int, number: int) -> list[str]:
        """The clients that are there in a round.

        Args:
            clients: ids, sorted.
            seed: of the run.
            number: 1-based round.
        """
        draws = numpy_generator(seed, "absence", round=number).random(len(clients))
        return [client for client, draw in zip(clients, draws, strict=True) if draw >= self.absence]

    def _train(self, clients: Sequence[str], number: int, io: IO) -> None:
        """Keeps y_i of each client; a client without a sound answer has y_i = x_i."""
        answered = 0
        for start in range(0, len(clients), AT_ONCE):
            own = {client: _own(client, io) for client in clients[start : start + AT_ONCE]}
            asks = {
                client: Ask(number, dict(params), learning_rate=io.learning_rate(number), counted=not io.simulated)
                for client, params in own.items()
            }
            trained = dict(own)
            for update in io.ask(asks, quorum=False):
                changes = update.groups[TUNABLE]
                moved = add({name: own[update.client][name] for name in changes}, changes)
                trained[update.client] = {**own[update.client], **moved}
                answered += 1
            for client, params in trained.items():
                io.keep(TRAINED, client, params)
        io.require(answered, len(clients))

    def _send(self, senders: Senders, number: int, io: IO) -> int:
        """Sends what each client sends to all that get it; returns the bytes of one message."""
        size, fixed = 0, io.rule.fixed(io.spec)
        receivers: dict[str, list[str]] = {client: [] for client in senders}
        for client, others in senders.items():
            for other in others:
                receivers[other].append(client)
        for client, getting in receivers.items():
            if io.peer_path.stages:
                sent: Mapping[str, Tensor] = _difference(client, number, fixed, io)
            else:
                values = self._value(client, io)
                sent = {name: tensor for name, tensor in values.items() if name not in fixed}
            size = io.peer(client, sorted(getting), sent)
        return size

    def _value(self, client: str, io: IO) -> Params:
        """v_i, what others know of a client in this round."""
        if io.peer_path.stages:
            return _kept(PUBLIC, client, io)
        return _kept(TRAINED, client, io) if self.order == "train-then-mix" else _own(client, io)

    def _mixed(self, client: str, row: Mapping[str, float], io: IO) -> Params:
        """x_i after the round."""
        trained, known = _kept(TRAINED, client, io), self._value(client, io)
        pull = map_params(lambda v: -v.double(), known)
        for other, weight in row.items():
            values = known if other == client else self._value(other, io)
            pull = map_params(lambda total, v, weight=weight: total + weight * v.double(), pull, values)
        moved = {
            name: (trained[name].double() + self.gamma * step).to(trained[name].dtype) for name, step in pull.items()
        }
        return {**trained, **moved}


def _own(client: str, io: IO) -> Params:
    """x_i before the round."""
    return io.kept(X, client) or dict(io.start)


def _kept(name: str, client: str, io: IO) -> Params:
    """What was kept for a client in this round."""
    found = io.kept(name, client, fresh=True)
    if found is None:
        raise ValueError(f"nothing is kept for client {client} as {name}")
    return found


def _difference(client: str, number: int, fixed: frozenset[str], io: IO) -> Mapping[str, Tensor]:
    """Q(y_i − x̂_i) as it crosses the wire; keeps the new x̂_i, as all that decode it have it."""
    start = io.start
    before = io.kept(PUBLIC, client) or {name: start[name] for name in io.spec if name not in fixed}
    trained = _kept(TRAINED, client, io)
    groups = {TUNABLE: subtract({name: trained[name] for name in before}, before)}
    specs, key = {TUNABLE: spec_of(before)}, MessageKey(io.seed, number, client)
    sent, _ = io.peer_path.encode(groups, {}, key)
    io.keep(PUBLIC, client, add(before, io.peer_path.decode(sent, specs, key)[TUNABLE]))
    return sent[TUNABLE]


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
