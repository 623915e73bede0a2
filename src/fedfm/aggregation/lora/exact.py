"""What rules share that lose nothing of the clients' low-rank updates: the rest goes into the frozen weights.

With A_c, B_c the client's factors after training and p_c its share of the round, the model after the round is

    W + s·Σ p_c·B_c·A_c = (W + s·E) + s·B'·A',    E = Σ p_c·B_c·A_c − B'·A',    s = α/r

whatever the new factors A', B' are. A rule chooses these; E is the residual, as thin factors, exactly compressed by QR.
Tensors that belong to no pair of factors, such as the head's, are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.aggregation.base import Contribution, Fold, Rule
from fedfm.aggregation.lora.pairs import pairs
from fedfm.aggregation.lora.products import ProductSum
from fedfm.aggregation.mean import Mean
from fedfm.models.low_rank import Factors, compressed, product_norm
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices, narrow

Renew = Callable[[str, ProductSum, Tensor], Factors | None]
"""Name of a factor A, the sum of the clients' products, and A itself → the new factors; None: the mean of factors."""


class ExactRule(Rule):
    """A rule after which the model is the mean of the clients' models."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.LOW_RANK_PRODUCT: "it adds up products of factors",
        capabilities.MODEL_CHANGES: "what does not fit into the factors goes into the frozen weights",
        capabilities.PLAIN_STEP: "the frozen weights get exactly what the new factors lack",
        capabilities.BARRIER: "a client's factors after training are the server's at its start plus its update",
        capabilities.INDIVIDUAL_UPDATES: "it multiplies the factors of each client",
        capabilities.ONE_MODEL: "all clients continue from the same factors and frozen weights",
    }

    weights: Literal["auto", "examples", "uniform"] = "auto"
    """`examples` counts a client by its examples, `uniform` counts clients alike; `auto` fits the sampling."""
    max_rank: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Largest rank of `adapter/`, one LoRA with all that was added to the weights; beyond it there is only `model/`."""

    @property
    def merges(self) -> bool:
        """True."""
        return True

    @property
    def adapter_rank(self) -> int:
        """`max_rank`."""
        return self.max_rank

    def residual_rank(self, rank: int, updates: int) -> int:
        """E = Σ p_c·(B_c − B')(A_c − A') with the mean factors B', A', whose terms depend on each other."""
        return rank * (updates - 1)

    def under(self, sampling: str) -> Self:
        """The rule with what ``federation.sampling`` decides filled in."""
        return self.model_copy(update={"weights": Mean(weights=self.weights).under(sampling).weights})

    def renew(self, a: str, product: ProductSum, factor: Tensor, *, seed: int, round: int) -> Factors | None:  # noqa: A002
        """The new factors of a pair; None: the mean of the clients' factors.

        Args:
            a: name of the factor A.
            product: of the clients' factors.
            factor: A before the round, ``[r, in]``.
            seed: the run's.
            round: 1-based round.
        """
        raise NotImplementedError

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> ExactFold:  # noqa: A002
        """The fold of a round."""

        def renew(name: str, product: ProductSum, factor: Tensor) -> Factors | None:
            return self.renew(name, product, factor, seed=seed, round=round)

        return ExactFold(spec, params, Mean(weights=self.weights), renew)

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> ExactFold:
        """The fold of a round of which only this is known."""
        return self.begin(spec, params, seed=0, round=0)


class ExactFold(Fold):
    """Sums the clients' products beside the mean of their tensors."""

    def __init__(self, spec: Spec, params: Mapping[str, Tensor], mean: Mean, renew: Renew) -> None:
        """An empty fold.

        Args:
            spec: of the whole tensors.
            params: w_t.
            mean: weighs clients.
            renew: chooses the new factors.
        """
        self._params, self._weigh, self._renew = params, mean.weight, renew
        self._pairs = pairs(spec)
        self._mean = mean.mean(spec)
        self._products = {a: ProductSum() for a in self._pairs}

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        self._mean.add(update, contribution, slices)
        for a, b in self._pairs.items():
            if a in update or b in update:
                up, down = (self._trained(name, update, slices) for name in (b, a))
                self._products[a].add(up, down, self._weigh(contribution))

    def _trained(self, name: str, update: Mapping[str, Tensor], slices: Slices) -> Tensor:
        """A factor of a client after training; one that it does not train is the server's."""
        if name not in update:
            return self._params[name]
        before: Tensor = narrow({name: self._params[name]}, {name: slices[name]})[name]
        return before + update[name]

    def result(self) -> Params:
        """The step from the factors before to those that the rule chooses, and the mean of all other updates."""
        found = self._mean.result()
        for a, product in self._products.items():
            factor = self._params[a]
            renewed = self._renew(a, product, factor) if product.weight else None
            if renewed is not None:
                for name, value in zip((self._pairs[a], a), renewed, strict=True):
                    found[name] = (value - self._params[name].double()).to(found[name].dtype)
        return found

    def residual(self, after: Mapping[str, Tensor]) -> Params:
        """E = Σ p_c·B_c·A_c − B'·A' of each pair that a client has trained."""
        found: Params = {}
        for a, b in self._pairs.items():
            if not self._products[a].weight:
                continue
            up, down = self._products[a].mean()
            precision = torch.finfo(torch.float32).eps * product_norm(up, down)
            up, down = compressed(
                torch.cat([up, -after[b].double()], 1), torch.cat([down, after[a].double()]), precision
            )
            if up.shape[1]:
                found |= {a: down.float().contiguous(), b: up.float().contiguous()}
        return found
