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
from fedfm.aggregation.lora.factors import TrainedFactors, flat
from fedfm.aggregation.mean import Mean
from fedfm.models.low_rank import Thin
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices

Renew = Callable[[str, Thin, Tensor], Thin | None]
"""Name of a factor A, the mean of the clients' products, and A itself → the new factors; None: the mean of factors."""


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

    def renew(self, a: str, product: Thin, factor: Tensor, *, seed: int, round: int) -> Thin | None:  # noqa: A002
        """The new factors of a pair; None: the mean of the clients' factors.

        Args:
            a: name of the factor A.
            product: Σ p_c·B_c·A_c.
            factor: A before the round, ``[r, in]``.
            seed: the run's.
            round: 1-based round.
        """
        raise NotImplementedError

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> ExactFold:  # noqa: A002
        """The fold of a round."""

        def renew(name: str, product: Thin, factor: Tensor) -> Thin | None:
            return self.renew(name, product, factor, seed=seed, round=round)

        return ExactFold(spec, params, Mean(weights=self.weights), renew)

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> ExactFold:
        """The fold of a round of which only this is known."""
        return self.begin(spec, params, seed=0, round=0)


class ExactFold(Fold):
    """The clients' factors on disk beside the mean of their tensors."""

    def __init__(self, spec: Spec, params: Mapping[str, Tensor], mean: Mean, renew: Renew) -> None:
        """An empty fold.

        Args:
            spec: of the whole tensors.
            params: w_t.
            mean: weighs clients.
            renew: chooses the new factors.
        """
        self._params, self._weigh, self._renew = params, mean.weight, renew
        self._mean, self._trained = mean.mean(spec), TrainedFactors(spec, params)
        self._products: dict[str, Thin] = {}
        """Factor A → Σ p_c·B_c·A_c, of pairs that a client has trained."""

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        self._mean.add(update, contribution, slices)
        self._trained.add(update, slices, self._weigh(contribution))

    def result(self) -> Params:
        """The step from the factors before to those that the rule chooses, and the mean of all other updates."""
        found, pairs = self._mean.result(), self._trained.pairs
        self._products = {a: self._trained.product(a) for a in pairs if self._trained.trained(a)}
        for a, product in self._products.items():
            renewed = self._renew(a, product, flat(self._params[a]))
            if renewed is not None:
                for name, value in ((pairs[a], renewed.left), (a, renewed.right)):
                    before = self._params[name]
                    found[name] = (value.reshape(before.shape) - before.double()).to(found[name].dtype)
        return found

    def residual(self, after: Mapping[str, Tensor]) -> Params:
        """E = Σ p_c·B_c·A_c − B'·A' of each pair that a client has trained."""
        found: Params = {}
        for a, product in self._products.items():
            b = self._trained.pairs[a]
            left = product - Thin(flat(after[b]), flat(after[a]))
            rest = left.compressed(torch.finfo(torch.float32).eps * product.norm())
            if len(rest.right):
                found |= {a: rest.right.float().contiguous(), b: rest.left.float().contiguous()}
        return found
