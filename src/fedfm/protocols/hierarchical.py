"""Hierarchical: edge aggregators average their clients every round, and the server averages the edges less often.

Liu, Zhang, Song, Letaief, Client-Edge-Cloud Hierarchical Federated Learning (HierFAVG), arXiv:1905.06641, Algorithm 1.
Each client belongs to one edge. A round of the run is a round of the edges. With κ = `edge_rounds`, the server's w and
the weights p_c of the recipe's rule, in each round

    w_ℓ = w + D_ℓ,   D_ℓ ← D_ℓ + Σ_c p_c·Δ_c(w_ℓ)             at edge ℓ, over its clients of the round; D_ℓ = 0 at first

and after κ rounds, with the examples n_ℓ of the clients that edge ℓ has folded in,

    D = Σ_ℓ n_ℓ·D_ℓ / Σ_ℓ n_ℓ,   w ← the algorithm's server step with D,   D_ℓ ← 0

For FedAvg this is the paper. Other algorithms step at the server, once in κ rounds: what clients send beside the update
is summed over these rounds too. One edge with κ = 1 is `star`, bit for bit. The run evaluates and delivers the server's
w; after the last round the server always averages.

Edges are simulated: a client's messages go to its edge, and the ledger has lines of kind `edge` for what edges and
server send each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fedfm import capabilities
from fedfm.aggregation import Contribution, Mean
from fedfm.algorithms import Aggregate, ServerState
from fedfm.errors import RecipeError
from fedfm.params import Params, add
from fedfm.protocols.base import Messages, Protocol, State
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.io import IO, Ask
from fedfm.randomness import numpy_generator
from fedfm.settings import Capabilities
from fedfm.spec import Spec

EDGE = "edge-"
"""Prefix of the ids of edges, and of the groups that they keep between rounds."""

UPDATE = "update"


@dataclass
class Edge:
    """What an edge has folded in since it got the server's model.

    Attributes:
        groups: D_ℓ as ``update``, and the sums of what clients sent beside their updates.
        examples: of the clients that it has folded in, a client once for each round.
        clients: clients that it has folded in, counted likewise.
        steps: their mean local steps.
        figures: the means of what the algorithm measured.
    """

    groups: dict[str, Params] = field(default_factory=dict)
    examples: int = 0
    clients: int = 0
    steps: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def fold(self, aggregate: Aggregate, examples: int, clients: int) -> None:
        """Adds the aggregate of a round."""
        for name, params in {UPDATE: aggregate.update, **aggregate.extras}.items():
            self.groups[name] = add(self.groups[name], params) if name in self.groups else params
        self.examples += examples
        self.clients += clients
        self.steps = _mean(self.steps, aggregate.steps, clients / self.clients)
        for name, figure in aggregate.figures.items():
            self.figures[name] = _mean(self.figures.get(name, figure), figure, examples / self.examples)


class Hierarchical(Protocol):
    """Edge aggregators average their clients, and the server averages the edges less often (HierFAVG)."""

    kind: Literal["hierarchical"] = "hierarchical"
    """Edge aggregators average their clients, and the server averages the edges less often (HierFAVG,
    arXiv:1905.06641)."""
    edges: Annotated[int, Field(ge=1)] = 2
    """Edge aggregators, at most as many as there are clients. Clients are dealt to them at random, in equal numbers."""
    edge_rounds: Annotated[int, Field(ge=1)] = 2
    """κ: rounds of the edges for one average at the server. `federation.rounds` counts rounds of the edges."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "edges add up updates of one tunable",
        capabilities.WHOLE_VIEWS: "the server averages whole tunables of the edges",
        capabilities.FIXED_COHORT: "an edge counts each of its clients once a round",
        capabilities.SIMULATED_CLIENTS: "edges have no machines of their own in this version",
        capabilities.LASTING_COORDINATES: "the server averages the edges coordinate by coordinate",
    }
    takes: ClassVar[Mapping[str, str]] = {capabilities.MODEL_CHANGES: "edges return changes of the tunable alone"}

    def capabilities(self) -> Capabilities:
        """Also what several rounds for one step of the server take."""
        said = super().capabilities()
        if self.edge_rounds == 1:
            return said
        takes = {capabilities.STEP_EACH_ROUND: "edges train on before the server's step; or set edge_rounds=1"}
        return Capabilities(said.needs, said.gives, {**said.takes, **takes})

    def step(self, state: State, io: IO) -> State:
        """A round of every edge; where it is due, the server's step."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        homes = self.homes(list(io.clients), io.seed)
        edges, server = _unpacked(state)
        traffic, rounds = int(state.facts.get("edge_server_bytes", 0)), int(state.facts.get("rounds", 0)) + 1
        extras = io.algorithm.sends(server)
        if rounds == 1:
            for name in sorted(set(homes.values())):
                traffic += io.relay("down", name, _flat({UPDATE: state.params, **extras}))
        models = {
            name: add(state.params, edges[name].groups[UPDATE]) if name in edges else dict(state.params)
            for name in sorted({homes[client] for client in cohort})
        }
        asks = {
            name: Ask(number, params, extras, learning_rate=io.learning_rate(number)) for name, params in models.items()
        }
        folds, examples = (
            {name: RoundFold(io, params, number, name) for name, params in models.items()},
            dict.fromkeys(models, 0),
        )
        for update in io.ask({client: asks[homes[client]] for client in cohort}, copies=cohort):
            home = homes[update.client]
            folds[home].add(update)
            examples[home] += update.contribution.examples
        for name, fold in folds.items():
            if len(fold):
                edges.setdefault(name, Edge()).fold(fold.aggregate(), examples[name], len(fold))
        if rounds < self.edge_rounds and number < io.rounds:
            return _packed(number, state.params, server, edges, rounds, traffic)
        if not edges:
            return _packed(number, state.params, server, {}, 0, traffic)
        for name, edge in edges.items():
            traffic += io.relay("up", name, _flat(edge.groups))
        aggregate = _averaged(edges, io.spec, number, rounds * len(io.clients))
        params, server = io.algorithm.server_step(state.params, aggregate, server)
        return _packed(number, params, server, {}, 0, traffic)

    def homes(self, clients: Sequence[str], seed: int) -> dict[str, str]:
        """Client id → id of its edge.

        Raises:
            RecipeError: there are fewer clients than edges.
        """
        if self.edges > len(clients):
            raise RecipeError(f"{self.edges} edges are more than the {len(clients)} clients", where="protocol.edges")
        dealt = numpy_generator(seed, "edges").permutation(sorted(clients))
        return {str(client): f"{EDGE}{place % self.edges}" for place, client in enumerate(dealt)}

    def folds(self, cohort: int) -> tuple[int, str] | None:
        """The updates of one edge, where the cohort is spread evenly."""
        return super().folds(cohort) if self.edges == 1 else (-(-cohort // self.edges), "protocol.edges")

    def messages(self, clients: Sequence[str], asked: int, answers: int) -> Messages:
        """Those of a star between edges and clients, and two for each edge in `edge_rounds` rounds."""
        return Messages(down=asked, up=answers, relay=2 * self.edges / self.edge_rounds)

    def figures(self, state: State) -> dict[str, float]:
        """Bytes that the edges and the server have sent each other."""
        return {name: float(value) for name, value in state.facts.items() if name == "edge_server_bytes"}


def _averaged(edges: Mapping[str, Edge], spec: Spec, number: int, chances: int) -> Aggregate:
    """What the edges' sums come to: updates and figures by examples, the rest by clients.

    Args:
        edges: with at least one client each.
        spec: of the tunable.
        number: the round.
        chances: clients of the run, counted once for each round since the last average.
    """
    rule, whole = Mean(weights="uniform"), dict.fromkeys(spec, ())
    folds = {group: rule.start(spec, {}) for edge in edges.values() for group in edge.groups}
    examples = clients = 0
    steps, figures = 0.0, dict[str, float]()
    for name, edge in edges.items():
        examples, clients = examples + edge.examples, clients + edge.clients
        for group, params in edge.groups.items():
            weight = edge.examples if group == UPDATE else edge.clients
            folds[group].add(params, Contribution(name, edge.examples, 1, weight), whole)
        steps = _mean(steps, edge.steps, edge.clients / clients)
        for figure, value in edge.figures.items():
            figures[figure] = _mean(figures.get(figure, value), value, edge.examples / examples)
    means = {group: fold.result() for group, fold in folds.items()}
    return Aggregate(
        update=means.pop(UPDATE),
        extras=means,
        share=clients / chances,
        clients=clients,
        steps=steps,
        round=number,
        figures=figures,
    )


def _mean(mean: float, value: float, share: float) -> float:
    """A running mean with one more value, whose weight is this share of all; with the first one, that value."""
    return value if share == 1 else mean + share * (value - mean)


def _packed(
    number: int, params: Params, server: ServerState, edges: Mapping[str, Edge], rounds: int, traffic: int
) -> State:
    """The state after a round.

    Args:
        number: the round.
        params: the server's model.
        server: what the algorithm keeps.
        edges: those with at least one client since the server's last step.
        rounds: since that step.
        traffic: bytes between edges and server, of the whole run.
    """
    groups = {f"{name}/{group}": tensors for name, edge in edges.items() for group, tensors in edge.groups.items()}
    counts: dict[str, Any] = {
        name: {"examples": edge.examples, "clients": edge.clients, "steps": edge.steps, "figures": edge.figures}
        for name, edge in edges.items()
    }
    return State(
        number, params, {**server, **groups}, {"edges": counts, "rounds": rounds, "edge_server_bytes": traffic}
    )


def _unpacked(state: State) -> tuple[dict[str, Edge], ServerState]:
    """The inverse of `_packed`: the edges, and what the algorithm keeps."""
    edges = {name: Edge(**counts, groups={}) for name, counts in state.facts.get("edges", {}).items()}
    server = {name: group for name, group in state.server.items() if not name.startswith(EDGE)}
    for name in state.server.keys() - server.keys():
        edge, _, group = name.partition("/")
        edges[edge].groups[group] = state.server[name]
    return edges, server


def _flat(groups: Mapping[str, Params]) -> Params:
    """Tensors of all groups, those beside the tunable under ``GROUP/NAME``."""
    return {
        name if group == UPDATE else f"{group}/{name}": tensor
        for group, params in groups.items()
        for name, tensor in params.items()
    }
