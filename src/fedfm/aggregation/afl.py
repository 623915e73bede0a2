"""AFL: the server learns weights of the clients under which the loss is largest, and minimises the loss under them.

Mohri, Sivek, Suresh, Agnostic Federated Learning, arXiv:1902.00146, algorithm Stochastic-AFL, for the objective
min_w max_λ Σ_k λ_k·F_k(w) with λ in the simplex. With the updates δ_k and losses F_k of a round's clients S:

    Δ = Σ_{k∈S} λ_k·δ_k / Σ_{k∈S} λ_k
    λ_k ← λ_k + γ·(F_k − F̄) for k in S,   λ ← Π(λ)

F̄ is the mean of the F_k, and Π the Euclidean projection onto the simplex. A number that is added to all λ_k does not
change Π, so that F̄ changes nothing where all clients take part, as in the paper. Where only a cohort does, it keeps a
weight from growing because its client was drawn. The paper takes one stochastic gradient a step; here a client takes
its local steps, and F_k is the mean loss over them, as with q-FedAvg. Clients start with equal weights; a new client
gets the mean of the weights of those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal
from urllib.parse import quote, unquote

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold, Memory, Rule
from fedfm.aggregation.losses import bounded, spread_of
from fedfm.aggregation.mean import Mean, MeanFold
from fedfm.capabilities import BARRIER, CLIENT_FIGURES, INDIVIDUAL_UPDATES, STEP_EACH_ROUND
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices

WEIGHTS = "weights"
"""What the server remembers λ under: one value for each client, by its id."""


class Afl(Rule):
    """Clients count by weights that rise with their losses, round after round (agnostic federated learning)."""

    rule: Literal["afl"] = "afl"
    """Clients count by weights that the server raises where the loss is large, round after round, so that the model
    serves any mixture of the clients (agnostic federated learning)."""
    weight_lr: Annotated[float, Field(gt=0)] = 0.1
    """γ: step size of the clients' weights; 0.1 moves a weight by 0.1 where a loss is 1 above the mean."""

    remembers: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        INDIVIDUAL_UPDATES: "the server weighs each client's update",
        CLIENT_FIGURES: "the weights follow each client's loss",
        BARRIER: "the losses of a round are compared with each other",
        STEP_EACH_ROUND: "one set of weights covers all clients",
    }

    @property
    def of_figures(self) -> Rule:
        """The mean with equal weights."""
        return Mean(weights="uniform")

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> Fold:
        """An empty fold."""
        return AflFold(spec, self.weight_lr)


class AflFold(Fold):
    """The mean with the weights λ of the round before; then the step of λ."""

    def __init__(self, spec: Spec, weight_lr: float) -> None:
        """An empty fold.

        Args:
            spec: of the whole tensors.
            weight_lr: γ.
        """
        self._step = weight_lr
        self._mean = MeanFold(spec, lambda update, contribution, _: dict.fromkeys(update, self.weigh(contribution)))
        self._before: dict[str, float] = {}
        """λ before the round."""
        self._seen: set[str] = set()
        self._losses: dict[str, float] = {}
        self._after: dict[str, float] = {}
        self._memory: Memory | None = None

    def recall(self, memory: Memory) -> None:
        """Takes λ from the round before."""
        self._memory = memory
        kept = memory.kept(WEIGHTS) or {}
        self._before = {unquote(client): weight.item() for client, weight in kept.items()}

    def weigh(self, contribution: Contribution) -> float:
        """λ_k for each draw, up to a common factor; 1/N of N known clients for one that is new."""
        new = 1 / len(self._before) if self._before else 1.0
        return contribution.copies * self._before.get(contribution.client, new)

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update."""
        self._mean.add(update, contribution, slices)
        self._seen.add(contribution.client)
        if contribution.loss is not None:
            self._losses[contribution.client] = bounded(contribution.loss)

    def result(self) -> Params:
        """Δ; the weights for the next round are kept with this one."""
        found = self._mean.result()
        self._after = self._ascended()
        if self._memory is not None:
            kept = {quote(k, safe=""): torch.tensor(v, dtype=torch.float64) for k, v in self._after.items()}
            self._memory.keep(WEIGHTS, kept)
        return found

    def figures(self) -> Mapping[str, float]:
        """The spread of the losses, and the largest λ_k after the round."""
        return {**spread_of(self._losses.values()), "largest_weight": max(self._after.values())}

    def _ascended(self) -> dict[str, float]:
        """λ after the round, by client in sorted order."""
        known, new = self._before, self._seen - self._before.keys()
        share = len(known) / (len(known) + len(new))
        weights = {k: v * share for k, v in known.items()} | dict.fromkeys(new, 1 / (len(known) + len(new)))
        mean = sum(self._losses.values()) / len(self._losses) if self._losses else 0.0
        clients = sorted(weights)
        steps = [self._step * (self._losses[k] - mean) if k in self._losses else 0.0 for k in clients]
        raised = torch.tensor([weights[k] + step for k, step in zip(clients, steps, strict=True)], dtype=torch.float64)
        return dict(zip(clients, onto_simplex(raised).tolist(), strict=True))


def onto_simplex(values: Tensor) -> Tensor:
    """The nearest point of the simplex {λ ≥ 0, Σ λ = 1}, ``[n]``.

    Held, Wolfe, Crowder, Validation of subgradient optimization, 1974: max(v − θ, 0), with θ from the values sorted
    downwards.
    """
    downwards = values.sort(descending=True).values
    excess = (downwards.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype)
    return (values - excess[downwards > excess][-1]).clamp(min=0)
