"""FoolsGold: clients whose updates point the same way, round after round, count less.

Fung et al., The Limitations of Federated Learning in Sybil Settings, arXiv:1808.04866, Algorithm 1. With H_i the sum of
the updates of client i in all its rounds and c_ij the cosine of H_i and H_j,

    v_i = max_j c_ij,   c_ij ← c_ij·v_i/v_j where v_j > v_i (pardoning),   α_i = 1 − max_j c_ij
    α_i ← α_i / max α,   α_i ← ln(α_i / (1 − α_i)) + 1/2, cut to [0, 1],   Δ = Σ α_i·x_i / Σ α_i

It assumes that honest clients are unlike each other and attackers alike. It needs no number of attackers, and one
attacker alone is never found. Honest clients with the same data are taken for attackers. Where all α_i are 0, nothing
tells the clients apart, and Δ is the mean. Histories lie on the server's disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold, Memory, Rule
from fedfm.aggregation.gathered import Gathered
from fedfm.aggregation.median import Median
from fedfm.aggregation.robust.grams import gram
from fedfm.capabilities import ONE_MODEL, WHOLE_VIEWS
from fedfm.params import Params, add
from fedfm.spec import Spec
from fedfm.views.base import Slices

HIGHEST = 0.99
"""An α of 1, whose logit is infinite."""
ROUNDING = 1e-9
"""A difference from equal directions so small is a rounding error."""


class FoolsGold(Rule):
    """Clients whose updates are alike over the rounds count less."""

    rule: Literal["foolsgold"] = "foolsgold"
    """Clients whose updates have pointed the same way in all their rounds count less; against many attackers with one
    aim."""

    gathers: ClassVar[bool] = True
    remembers: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        WHOLE_VIEWS: "it compares whole updates",
        ONE_MODEL: "it adds up a client's updates over rounds",
    }

    @property
    def of_figures(self) -> Rule:
        """The median: figures have no direction."""
        return Median()

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> FoolsGoldFold:
        """An empty fold."""
        return FoolsGoldFold(spec)


class FoolsGoldFold(Fold):
    """Updates and histories on disk."""

    def __init__(self, spec: Spec) -> None:
        """An empty fold.

        Args:
            spec: of the tunable.
        """
        self._spec, self._updates, self._histories = spec, Gathered(spec), Gathered(spec)
        self._copies: dict[str, int] = {}
        self._memory: Memory | None = None
        self._left_out: dict[str, str] = {}

    def recall(self, memory: Memory) -> None:
        """Keeps a history for each client."""
        self._memory = memory

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Writes one update to disk, as `fedfm.aggregation.base.Fold.add`; a client's second one counts as a copy."""
        client = contribution.client
        if client in self._copies:
            self._copies[client] += contribution.copies
            return
        self._copies[client] = contribution.copies
        self._updates.add(update, slices)
        history = dict(update)
        if self._memory is not None:
            if (before := self._memory.kept(client)) is not None:
                history = add(before, history)
            self._memory.keep(client, history)
        self._histories.add(history, slices)

    def result(self) -> Params:
        """The weighted mean in the dtype of the updates; it ends the fold.

        Raises:
            ValueError: nothing was folded in.
        """
        if not self._copies:
            raise ValueError("no updates to combine")
        shares = foolsgold_weights(gram(self._histories, self._spec))
        self._left_out = {
            client: "its updates are like those of another client"
            for client, share in zip(self._copies, shares.tolist(), strict=True)
            if not share
        }
        weights = shares * torch.tensor(list(self._copies.values()), dtype=torch.float64)
        weights = weights / weights.sum()
        found: Params = {}
        for name, spec in self._spec.items():
            pieces = [weights @ piece.double().nan_to_num_(0.0) for piece in self._updates.pieces(name)]
            found[name] = torch.cat([torch.empty(0), *pieces]).to(spec.dtype).view(spec.shape)
        return found

    def notes(self) -> Mapping[str, str]:
        """Clients whose updates have weight 0."""
        return self._left_out


def foolsgold_weights(products: Tensor) -> Tensor:
    """α of each client ``[n]``, from the scalar products of the histories ``[n, n]``; all 1 where all are 0."""
    count = len(products)
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    norms = products.diagonal().clamp(min=0).sqrt()
    norms = norms.where(norms > 0, 1)
    cosines = (products / norms[:, None] / norms).fill_diagonal_(-torch.inf)
    nearest = cosines.max(1).values
    pardoned = nearest[:, None] / nearest.where(nearest != 0, 1)
    cosines = torch.where(nearest > nearest[:, None], cosines * pardoned, cosines).fill_diagonal_(-torch.inf)
    alpha = (1 - cosines.max(1).values).clamp(0, 1)
    alpha = torch.where(alpha < ROUNDING, 0, alpha)
    if not alpha.any():
        return torch.ones(count, dtype=torch.float64)
    alpha = (alpha / alpha.max()).clamp(max=HIGHEST)
    return (torch.logit(alpha) + 0.5).clamp(0, 1)
