"""Selective layers: each client of a round trains and returns only the layers that the server chooses for it.

Sun, Xie, Ding, Li, Zhang, Exploring Selective Layer Fine-Tuning in Federated Learning, arXiv:2408.15600. Each layer is
averaged over the clients that trained it; a layer that nobody trained stays. Which layers a client trains follows from
their positions, or from squared norms of its gradient at the round's tunable, of which it sends one number a layer.
Strategy `pro` trades the gradients that are covered for agreement between clients (`problem`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from fedfm import capabilities
from fedfm.errors import RecipeError
from fedfm.settings import Capabilities
from fedfm.spec import Spec, TensorSpec
from fedfm.views.selection.ascent import ascend
from fedfm.views.selection.base import GRADIENT, PROBE, SNR, Probing, Selected, Selection, Situation, TunableLayers
from fedfm.views.selection.budgets import LayerCosts, Unit, budget_of
from fedfm.views.selection.exact import solve
from fedfm.views.selection.figures import choice_figures
from fedfm.views.selection.problem import SelectionProblem, shares
from fedfm.views.selection.strategies import ORDERS, SCORES, Strategy

Amount = Annotated[float, Field(gt=0, le=1e9)]

PRO_LAM = 0.002
"""λ of `pro` where the recipe does not say: budgets are used, and clients agree on most layers."""


class LayerSelection(Selection):
    """Chosen layers only."""

    kind: Literal["layers"] = "layers"
    """Chosen layers only. The head is always trained, embeddings never."""
    strategy: Strategy = "pro"
    """How layers are chosen: `pro` by squared gradient norms and agreement between clients; `rgn` by the gradient's
    norm relative to the parameters'; `snr` by its signal-to-noise ratio; `top`, `bottom`, `both`, `random`, `full`
    without asking the clients."""
    budget: Amount | list[Amount] | dict[str, Amount] = 2.0
    """What a client may spend in a round, in the unit of `cost`: one amount for all, a list from which each client's is
    drawn, or an amount for each pattern of client ids, where the first match counts and no match means all layers."""
    cost: Unit = "layers"
    """What the budget counts. `flops`: of the backward pass, where 1 is the forward pass of one layer; it goes through
    all layers above the lowest chosen one. `memory`: MiB of gradients, optimiser state and activations, estimated."""
    lam: Annotated[float, Field(ge=0)] | None = None
    """λ: weight of agreement between clients, where each client's scores add up to 1; 0: each client has its own best
    layers, above about 0.03: few layers, which are the same for all. Null: 0.002 with `pro`, else 0."""
    solver: Literal["ascent", "milp"] = "ascent"
    """`ascent`: fast, seldom below the optimum. `milp`: exact; slow above about 250 clients a round times layers."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """A client measures again when its figures are this many rounds old."""
    batches: Annotated[int, Field(ge=1, le=4, validate_default=True)] = 1
    """Batches over which a client measures; `snr` needs at least 2."""
    top_up: bool = True
    """Spend what is left of a client's budget on its own layers of the highest scores."""

    chooses: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.CHOSEN_PARTS: "the server sends with each message which layers a client trains",
        capabilities.TUNABLE_UPDATES: "a client returns the layers that it trained",
    }
    takes: ClassVar[Mapping[str, str]] = {capabilities.WHOLE_VIEWS: "a client returns chosen layers only"}

    @field_validator("budget")
    @classmethod
    def _budget_is_named(cls, budget: float | list[float] | dict[str, float]) -> float | list[float] | dict[str, float]:
        if isinstance(budget, list | dict) and not budget:
            raise ValueError("must name at least one amount")
        return budget

    @field_validator("batches")
    @classmethod
    def _noise_is_measurable(cls, batches: int, info: ValidationInfo) -> int:
        if info.data.get("strategy") == "snr" and batches < 2:
            raise ValueError("`strategy: snr` compares the gradients of batches: use 2 to 4")
        return batches

    def capabilities(self) -> Capabilities:
        """Also figures of clients, where the strategy has scores."""
        if self.probing is None:
            return super().capabilities()
        figures = {capabilities.CLIENT_FIGURES: "clients measure their gradients, which decide the layers"}
        return Capabilities({**self.needs, **figures}, self.gives, self.takes)

    @property
    def probing(self) -> Probing | None:
        """Gradients, where the strategy has scores."""
        return Probing(self.batches, snr=self.strategy == "snr") if self.strategy in SCORES else None

    def is_stale(self, measured: int, round: int) -> bool:  # noqa: A002 - the field's word
        """Whether figures are `every` rounds old."""
        return round - measured >= self.every

    def returns(self, layers: TunableLayers) -> Mapping[str, Spec]:
        """One number a layer; for `snr` two."""
        probing = self.probing
        if probing is None:
            return {}
        return {PROBE: dict.fromkeys((GRADIENT, SNR) if probing.snr else (GRADIENT,), TensorSpec((len(layers),)))}

    def check(self, layers: TunableLayers, clients: Sequence[str], seed: int) -> None:
        """Checks that every client can train a layer.

        Raises:
            RecipeError: the tunable has fewer than two layers, or a budget is below the cheapest layer.
        """
        if len(layers) < 2:
            raise RecipeError(
                f"what `tune.kind` trains is in {len(layers)} layers, and there is no choice among fewer than 2; a "
                "layer is a block of the model with parameters that are trained and shared: use lora or full, on a "
                "model whose blocks are described",
                where="select.kind",
            )
        least, smallest = LayerCosts.of(layers, self.cost).least(), min(self._budget(c, seed) for c in clients)
        if self.strategy != "full" and smallest < least * (1 - 1e-9):
            raise RecipeError(
                f"{smallest:g} is less than the cheapest layer costs ({least:.3g} with `select.cost: {self.cost}`)",
                where="select.budget",
            )

    def planned(self, layers: TunableLayers, client: str, seed: int) -> tuple[str, ...]:
        """The layers nearest the output that the client's budget pays for."""
        costs, order = LayerCosts.of(layers, self.cost), range(len(layers))[::-1]
        return _held(layers, costs.filled(order, self._budget(client, seed)))

    def choose(self, at: Situation) -> Selected:
        """The layers of each client, and figures of the choice."""
        clients, costs = list(at.clients), LayerCosts.of(at.layers, self.cost)
        budgets = np.array([self._budget(client, at.seed) for client in clients])
        order = ORDERS.get(self.strategy)
        if order is not None:
            masks = np.stack([costs.filled(order(at, c), b) for c, b in zip(clients, budgets, strict=True)])
        else:
            masks = self._by_scores(shares(np.maximum(SCORES[self.strategy](at), 0.0)), costs, budgets)
        measured = all(GRADIENT in known.figures for known in at.clients.values())
        figures = choice_figures(
            at.layers.names,
            masks,
            [known.examples for known in at.clients.values()],
            spent=np.array([costs.of_choice(mask) for mask in masks]),
            budgets=budgets,
            gradient=np.array([known.figures[GRADIENT] for known in at.clients.values()]) if measured else None,
        )
        held = {client: _held(at.layers, mask) for client, mask in zip(clients, masks, strict=True)}
        return Selected(held, figures)

    def _by_scores(self, scores: np.ndarray, costs: LayerCosts, budgets: np.ndarray) -> np.ndarray:
        lam = self.lam if self.lam is not None else PRO_LAM if self.strategy == "pro" else 0.0
        problem = SelectionProblem(scores, lam, costs, budgets)
        masks = ascend(problem) if self.solver == "ascent" else solve(problem)
        orders = [np.argsort(-row, kind="stable").tolist() for row in scores]
        return np.stack([self._topped(costs, *each) for each in zip(orders, budgets, masks, strict=True)])

    def _topped(self, costs: LayerCosts, order: list[int], budget: float, mask: np.ndarray) -> np.ndarray:
        """A client's choice with `top_up`; without it, of one layer at least: it would return nothing otherwise."""
        if self.top_up:
            return costs.filled(order, budget, mask)
        return mask if mask.any() else next(one for layer in order if (one := costs.filled([layer], budget)).any())

    def _budget(self, client: str, seed: int) -> float:
        return math.inf if self.strategy == "full" else budget_of(self.budget, client, seed)


def _held(layers: TunableLayers, mask: np.ndarray) -> tuple[str, ...]:
    chosen = (name for place in np.flatnonzero(mask) for name in layers.tensors[place])
    return (*layers.beside, *chosen)
