"""Clusters: the server groups clients by what they have trained, and each group trains an expert of its own.

Wang et al., Adaptive LoRA Experts Allocation and Selection for Federated Fine-Tuning (FedLEASE), arXiv:2509.15087. In
round 1, all clients of the cohort train from the initial tunable. With the factors B_c^l of client c in the layers l,

    d(c, c') = 1/L Σ_l ( 1 − cos(B_c^l, B_c'^l) ),

the server clusters them by agglomeration with average linkage. The number of clusters is the one with the largest mean
silhouette, where the recipe does not name it. From then on

    w_k ← the algorithm's server step with the updates of the clients of cluster k, by the recipe's rule,

beginning with those of round 1; each client trains and is evaluated with its cluster's w_k alone. A client that first
takes part later trains from the initial tunable too, and joins the cluster to which its mean distance is least; that
update is not folded, since it does not start from w_k. One cluster, with all clients in every round, is `star`, bit for
bit.

FedLEASE also lets a client combine several experts by a router that is trained with them (adaptive top-M). That is not
in this version: M = 1. The run delivers the mean of the experts, each weighted by its clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.aggregation.gathered import Gathered
from fedfm.aggregation.lora.pairs import pairs
from fedfm.algorithms import Algorithm, ServerState
from fedfm.params import Params, map_params
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.ingredients import Ingredients
from fedfm.protocols.io import IO, Ask, ClientUpdate
from fedfm.spec import Spec
from fedfm.wire import TUNABLE

EXPERT = "expert-"
"""Prefix of the names of experts, and of the groups that they keep between rounds."""

PARAMS, CENTRE, SERVER = "params", "centre", "algorithm/"
"""Groups of an expert: its tunable, the means of its clients' B^l / ‖B^l‖ in round 1, and those of the algorithm."""


@dataclass(frozen=True)
class Expert:
    """What the server keeps for a cluster.

    Attributes:
        params: w_k.
        centre: the mean of the clients' B^l / ‖B^l‖, by the name of B; with it, 1/L Σ_l (1 − ⟨·, centre^l⟩) is the mean
            distance to these clients.
        server: the algorithm's state.
    """

    params: Params
    centre: Params
    server: ServerState = field(default_factory=dict)


class Clusters(Protocol):
    """Clients are clustered after round 1, and each cluster trains an expert of its own (FedLEASE with M = 1)."""

    kind: Literal["clusters"] = "clusters"
    """Clients are clustered by their factors B after round 1, and each cluster trains an expert of its own (FedLEASE,
    arXiv:2509.15087, with one expert for each client)."""
    clusters: Annotated[int, Field(ge=1)] | None = None
    """How many; null: the number with the largest silhouette."""
    most_clusters: Annotated[int, Field(ge=1)] = 8
    """The largest number that is tried where `clusters` is null."""

    has_experts: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "the server compares updates of one tunable",
        capabilities.WHOLE_VIEWS: "the server compares the factors B of all layers",
        capabilities.LOW_RANK_FACTORS: "clients are compared by their factors B",
        capabilities.INDIVIDUAL_UPDATES: "the server compares the updates of clients",
        capabilities.LASTING_COORDINATES: "the server delivers the mean of the experts",
        capabilities.BACKBONE_WEIGHTS: "a proxy follows one tunable",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_MODEL: "each cluster has its own",
        capabilities.SHARED_TUNABLE: "each cluster has its own tunable",
        capabilities.MODEL_CHANGES: "experts differ in the tunable alone",
    }

    def folds(self, cohort: int) -> tuple[int, str] | None:
        """A cluster may have one client."""
        return (1, "protocol.kind") if self.clusters != 1 else super().folds(cohort)

    def start(self, params: Params, algorithm: Algorithm) -> State:
        """Without experts."""
        return State(0, params)

    def step(self, state: State, io: IO) -> State:
        """A round of every cluster; before there are any, the round by which they are made."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        experts, homes = _unpacked(state), dict(state.facts.get("experts", {}))
        rate = io.learning_rate(number)
        asks = {
            name: Ask(number, expert.params, io.algorithm.sends(expert.server), learning_rate=rate)
            for name, expert in experts.items()
        }
        known, found = {c: homes[c] for c in cohort if c in homes}, Ingredients()
        start = {} if len(known) == len(cohort) else dict(io.start)
        newcomer = Ask(number, start, io.algorithm.sends(io.algorithm.start(start)), learning_rate=rate)
        folds = {name: RoundFold(io, experts[name].params, number) for name in sorted(set(known.values()))}
        for update in io.ask({c: asks[known[c]] if c in known else newcomer for c in cohort}, copies=cohort):
            if update.client in known:
                folds[known[update.client]].add(update)
            else:
                found.add(update)
        silhouette = state.facts.get("silhouette", 0.0)
        if not experts and found:
            homes, silhouette = self._clustered(found, io.spec)
            centres = _centres(found, homes)
            experts = {name: Expert(start, centre, io.algorithm.start(start)) for name, centre in centres.items()}
            folds = {name: RoundFold(io, start, number) for name in experts}
            for client, name in homes.items():
                folds[name].add(found[client])
        elif experts:
            homes |= {client: _nearest(found[client], experts) for client in found}
        for name, fold in folds.items():
            if len(fold):
                members = sum(home == name for home in homes.values())
                experts[name] = _stepped(experts[name], fold, len(fold) / members, number, io.algorithm)
        return _packed(number, state.params, experts, homes, silhouette)

    def experts(self, state: State) -> Mapping[str, Params]:
        """The w_k."""
        return {name: expert.params for name, expert in _unpacked(state).items()}

    def expert_of(self, client: str, state: State) -> str | None:
        """The expert of the client's cluster; None for a client that has not taken part."""
        found: str | None = state.facts.get("experts", {}).get(client)
        return found

    def figures(self, state: State) -> dict[str, float]:
        """How many experts there are, and the mean silhouette of the clients of round 1."""
        names = set(state.facts.get("experts", {}).values())
        return {"experts": float(len(names)), "silhouette": float(state.facts.get("silhouette", 0.0))}

    def _clustered(self, found: Ingredients, spec: Spec) -> tuple[dict[str, str], float]:
        """Client id → its expert, and the mean silhouette; 0 where there is one cluster."""
        labels, silhouette = grouped(distances(found, spec), self.clusters, self.most_clusters)
        places = {label: place for place, label in enumerate(dict.fromkeys(labels))}  # by their first client
        return {c: f"{EXPERT}{places[label]}" for c, label in zip(found, labels, strict=True)}, silhouette


def distances(found: Mapping[str, ClientUpdate], spec: Spec) -> np.ndarray:
    """D(c, c') of all clients, float64 ``[N, N]``, with what clients have changed of B, which starts at 0.

    An unchanged B is at distance 0 from another one, and at distance 1 from all others.
    """
    names = sorted(pairs(spec).values())
    gathered = Gathered({name: spec[name] for name in names})
    for update in found.values():
        gathered.add(update.groups[TUNABLE], update.slices)
    total = torch.zeros(len(found), len(found), dtype=torch.float64)
    for name in names:
        gram = torch.zeros_like(total)
        for piece in gathered.pieces(name):
            gram += piece.double() @ piece.double().T
        norms = gram.diagonal().sqrt()
        still = norms == 0
        cosines = gram / torch.outer(norms, norms).where(~(still[:, None] | still), 1)
        total += 1 - cosines.where(~(still[:, None] & still), 1)
    total = (total / len(names)).clamp(min=0).fill_diagonal_(0)
    return ((total + total.T) / 2).numpy()


def grouped(apart: np.ndarray, clusters: int | None, most: int) -> tuple[list[int], float]:
    """The cluster of each client, and the mean silhouette; 0 where it is not defined.

    Args:
        apart: distances ``[N, N]``.
        clusters: how many; None: as many as have the largest silhouette, which is defined for 2 to N − 1.
        most: the largest number that is tried.
    """
    from sklearn.cluster import AgglomerativeClustering  # slow to import
    from sklearn.metrics import silhouette_score

    best: tuple[list[int], float] = ([0] * len(apart), 0.0)
    if not apart.any():
        return best
    tried = range(2, min(most, len(apart) - 1) + 1) if clusters is None else [min(clusters, len(apart))]
    for number in tried:
        if number == 1:
            continue
        model = AgglomerativeClustering(n_clusters=number, metric="precomputed", linkage="average")
        labels = model.fit_predict(apart).tolist()
        defined = number < len(apart)
        score = float(silhouette_score(apart, labels, metric="precomputed")) if defined else 0.0
        if score > best[1] or clusters is not None:
            best = labels, score
    return best


def _stepped(expert: Expert, fold: RoundFold, share: float, number: int, algorithm: Algorithm) -> Expert:
    """An expert after a round.

    Args:
        expert: before it.
        fold: of the cluster's updates.
        share: of the cluster's clients that were folded in.
        number: 1-based round.
        algorithm: of the run.
    """
    aggregate = replace(fold.aggregate(), share=share)
    params, server = algorithm.server_step(expert.params, aggregate, expert.server)
    return replace(expert, params=params, server=server)


def _units(update: ClientUpdate) -> Params:
    """B^l / ‖B^l‖ by the name of B, float32; zero where nothing was trained."""
    changed = update.groups[TUNABLE]
    return {name: _unit(changed[name]) for name in sorted(pairs(changed).values())}


def _unit(tensor: Tensor) -> Tensor:
    norm = tensor.double().norm()
    unit: Tensor = (tensor.double() / norm.where(norm > 0, 1)).float()
    return unit


def _centres(found: Ingredients, homes: Mapping[str, str]) -> dict[str, Params]:
    """Expert → `Expert.centre`."""
    sums, counts = dict[str, Params](), dict[str, int]()
    for client in found:
        home, units = homes[client], _units(found[client])
        sums[home] = map_params(torch.add, sums[home], units) if home in sums else units
        counts[home] = counts.get(home, 0) + 1
    return {name: {n: t / counts[name] for n, t in sums[name].items()} for name in sorted(sums)}


def _nearest(update: ClientUpdate, experts: Mapping[str, Expert]) -> str:
    """The expert whose clients of round 1 are nearest to a client, on average."""
    units = _units(update)

    def closeness(name: str) -> float:
        return sum((unit.double() * experts[name].centre[n].double()).sum().item() for n, unit in units.items())

    return max(experts, key=closeness)


def _packed(
    number: int, before: Params, experts: Mapping[str, Expert], homes: Mapping[str, str], silhouette: float
) -> State:
    """The state after a round; with the mean of the experts, or ``before`` where there is none."""
    server = {
        f"{name}/{group}": params for name, expert in experts.items() for group, params in _groups(expert).items()
    }
    facts = {"experts": dict(homes), "silhouette": silhouette} if experts else {}
    return State(number, _mean(list(_weighted(experts, homes)), before), server, facts)


def _groups(expert: Expert) -> dict[str, Params]:
    return {
        PARAMS: expert.params,
        CENTRE: expert.centre,
        **{f"{SERVER}{group}": params for group, params in expert.server.items()},
    }


def _weighted(experts: Mapping[str, Expert], homes: Mapping[str, str]) -> Iterator[tuple[float, Params]]:
    for name, expert in experts.items():
        yield sum(home == name for home in homes.values()) / len(homes), expert.params


def _mean(weighted: Sequence[tuple[float, Params]], like: Params) -> Params:
    """Σ p_k·w_k in the dtype of ``like``; that of one expert is its own, to the bit."""
    if not weighted:
        return like
    return {
        name: torch.stack([share * params[name].double() for share, params in weighted]).sum(0).to(tensor.dtype)
        for name, tensor in like.items()
    }


def _unpacked(state: State) -> dict[str, Expert]:
    """The inverse of `_packed`."""
    groups: dict[str, dict[str, Params]] = {}
    for key, params in state.server.items():
        name, _, group = key.partition("/")
        if name.startswith(EXPERT):
            groups.setdefault(name, {})[group] = params
    return {
        name: Expert(
            parts[PARAMS],
            parts[CENTRE],
            {group.removeprefix(SERVER): params for group, params in parts.items() if group.startswith(SERVER)},
        )
        for name, parts in sorted(groups.items())
    }
