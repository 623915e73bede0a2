"""Rules that gather a round's updates and may mix them first; and those that combine them by their scalar products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold, Memory, Rule
from fedfm.aggregation.gathered import Gathered, Rows
from fedfm.aggregation.lora.factors import TrainedFactors, flat
from fedfm.aggregation.lora.flexlora import best_factors
from fedfm.aggregation.robust.grams import Factors, gram, gram_of_products
from fedfm.aggregation.robust.mixing import AnyMixing
from fedfm.capabilities import (
    BARRIER,
    LASTING_COORDINATES,
    LOW_RANK_PRODUCT,
    ONE_MODEL,
    TUNABLE_UPDATES,
    WHOLE_VIEWS,
)
from fedfm.models.low_rank import Thin
from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.settings import Capabilities
from fedfm.spec import Spec
from fedfm.views.base import Slices, whole

ROUNDING = 1e-12
"""A sum of weights so near to 1 is 1."""


class MixingRule(Rule):
    """A rule that needs all updates of a round, and may replace them by linear combinations first."""

    gathers: ClassVar[bool] = True

    before: list[AnyMixing] = []
    """What is done to the updates first, in order, such as `[{kind: nnm, f: 2}]`."""

    @property
    def fewest(self) -> int:
        """The fewest updates that it can combine, once they are mixed."""
        return 1

    @property
    def highest(self) -> int | None:
        """The most updates that it can combine, once they are mixed; None: any number."""
        return None

    @property
    def least(self) -> int:
        """The fewest updates of a round, before they are mixed."""
        wanted = self.fewest
        for mixing in reversed(self.before):
            wanted = mixing.least(wanted)
        return wanted

    @property
    def most(self) -> int | None:
        """The most updates of a round, before they are mixed."""
        allowed = self.highest
        for mixing in reversed(self.before if allowed is not None else []):
            allowed = mixing.most(allowed or 0)
        return allowed

    def capabilities(self) -> Capabilities:
        """Also what it relies on where it mixes."""
        said = super().capabilities()
        needs = {WHOLE_VIEWS: "`before` compares whole updates"} if self.before else {}
        return Capabilities({**said.needs, **needs}, said.gives, said.takes)

    def mixed(self, products: Tensor, seed: int, round: int) -> Tensor:  # noqa: A002
        """M ``[m, n]`` of all that is done first.

        Args:
            products: G of the updates, ``[n, n]``.
            seed: the run's.
            round: 1-based round.
        """
        generator = numpy_generator(seed, "mixing", round=round)
        matrix = torch.eye(len(products), dtype=torch.float64)
        for mixing in self.before:
            matrix = mixing.matrix(matrix @ products @ matrix.T, generator) @ matrix
        return matrix

    def rows(self, seed: int, round: int, choose: Callable[[Tensor], Tensor] | None = None) -> Rows | None:  # noqa: A002
        """For `OrderFold`: what is done first, then a choice among the rows; None where nothing is done.

        Args:
            seed: the run's.
            round: 1-based round.
            choose: G of the mixed updates ``[m, m]`` → rows ``[k, m]``.
        """
        return partial(self._rows, seed, round, choose) if self.before or choose else None

    def _rows(self, seed: int, round: int, choose: Callable[[Tensor], Tensor] | None, gathered: Gathered) -> Tensor:  # noqa: A002
        products = gram(gathered, gathered.names)
        matrix = self.mixed(products, seed, round)
        return matrix if choose is None else choose(matrix @ products @ matrix.T) @ matrix

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> Fold:
        """The fold of a round of which only this is known."""
        return self.begin(spec, params, seed=0, round=0)


@dataclass(frozen=True)
class Compared:
    """What a rule knows of the updates of a round.

    Attributes:
        products: their scalar products, ``[n + k, n + k]`` in float64: of the mixed updates, then of the references.
        references: k, vectors beside the updates, such as the aggregate of the round before.
    """

    products: Tensor
    references: int = 0


class ComparingRule(MixingRule):
    """A rule whose result is a linear combination of the updates, by their scalar products. Clients count alike."""

    needs: ClassVar[Mapping[str, str]] = {WHOLE_VIEWS: "it compares whole updates"}

    compare: Literal["updates", "products"] = "updates"
    """`updates` compares and combines what clients send; `products` the products B·A of LoRA's factors, and the result
    is their best factors of rank `tune.r`: no choice of factors with the same product changes it."""

    def capabilities(self) -> Capabilities:
        """Also what it relies on where it compares products."""
        said = super().capabilities()
        if self.compare == "updates":
            return said
        why = "aggregate.compare: products multiplies the factors of each client"
        needs = dict.fromkeys((LOW_RANK_PRODUCT, ONE_MODEL, BARRIER, TUNABLE_UPDATES), why)
        takes = {LASTING_COORDINATES: "aggregate.compare: products chooses new factors in each round"}
        return Capabilities({**said.needs, **needs}, said.gives, {**said.takes, **takes})

    def weights(self, compared: Compared) -> Tensor:
        """The coefficients of the result, ``[n + k]`` in float64; updates with 0 are noted as left out."""
        raise NotImplementedError

    def begin(self, spec: Spec, params: Mapping[str, Tensor], *, seed: int, round: int) -> ComparedFold:  # noqa: A002
        """The fold of a round."""
        factors = TrainedFactors(spec, params) if self.compare == "products" else None
        return ComparedFold(self, spec, params, partial(self.mixed, seed=seed, round=round), factors)


class ComparedFold(Fold):
    """The updates on disk; their scalar products, and what is combined, are read tensor by tensor."""

    def __init__(
        self,
        rule: ComparingRule,
        spec: Spec,
        params: Mapping[str, Tensor],
        mix: Callable[[Tensor], Tensor],
        factors: TrainedFactors | None,
    ) -> None:
        """An empty fold.

        Args:
            rule: weighs.
            spec: of the tunable.
            params: w_t.
            mix: scalar products of the updates → M of what is done first.
            factors: gets the pairs of factors that are compared by their products; None: none is.
        """
        self._rule, self._spec, self._params, self._mix = rule, spec, params, mix
        self._gathered, self._factors = Gathered(spec), factors
        self._clients: list[str] = []
        self._sources: list[int] = []
        """Update, a copy for each time it counts → its number among the factors."""
        self._references = 0
        self._left_out: dict[str, str] = {}
        self._memory: Memory | None = None

    def recall(self, memory: Memory) -> None:
        """Keeps the aggregate, and has that of the round before as a reference."""
        self._memory = memory

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Writes one update to disk, as `fedfm.aggregation.base.Fold.add`."""
        self._write(update, slices, contribution.copies)
        self._clients += [contribution.client] * contribution.copies

    def refer(self, reference: Mapping[str, Tensor]) -> None:
        """Adds a vector that is compared with the updates, after the last `add`."""
        self._write(reference, whole(self._spec), 1)
        self._references += 1

    def result(self) -> Params:
        """The linear combination in the dtype of the updates; it ends the fold.

        Raises:
            ValueError: nothing was folded in.
        """
        if not self._clients:
            raise ValueError("no updates to combine")
        if self._memory is not None and (before := self._memory.kept(AGGREGATE)) is not None:
            self.refer(before)
        products, count = self._products(), len(self._clients)
        mix = _with_references(self._mix(products[:count, :count]), self._references)
        weights = self._rule.weights(Compared(mix @ products @ mix.T, self._references)) @ mix
        shares = dict.fromkeys(self._clients, 0.0)
        for client, weight in zip(self._clients, weights.tolist(), strict=False):
            shares[client] += abs(weight)
        self._left_out = {
            client: f"`{self._rule.rule}` gives its update no weight" for client, share in shares.items() if not share
        }
        combined = self._combined(weights)
        if self._memory is not None:
            self._memory.keep(AGGREGATE, combined)
        return combined

    def replaced(self) -> frozenset[str]:
        """The factors that are chosen anew."""
        pairs = self._compared_pairs()
        return frozenset({*pairs, *pairs.values()})

    def notes(self) -> Mapping[str, str]:
        """Clients whose updates have weight 0."""
        return self._left_out

    def _write(self, update: Mapping[str, Tensor], slices: Slices, copies: int) -> None:
        number = self._sources[-1] + 1 if self._sources else 0
        self._gathered.add(update, slices, copies)
        self._sources += [number] * copies
        if self._factors is not None:
            self._factors.add(update, slices, 1.0)

    def _compared_pairs(self) -> dict[str, str]:
        """Factor A → factor B of the pairs that are compared by their products."""
        if self._factors is None:
            return {}
        return {a: b for a, b in self._factors.pairs.items() if self._factors.trained(a)}

    def _products(self) -> Tensor:
        pairs = self._compared_pairs()
        total = gram(self._gathered, self._spec.keys() - {*pairs, *pairs.values()})
        if self._factors is not None:
            for a, b in pairs.items():
                changes = partial(_change, self._factors, a, flat(self._params[a]), flat(self._params[b]))
                total += gram_of_products(changes, self._factors.count(a))[self._sources][:, self._sources]
        return total

    def _combined(self, weights: Tensor) -> Params:
        pairs = self._compared_pairs()
        found: Params = {}
        for name, spec in self._spec.items():
            if name not in pairs and name not in pairs.values():
                pieces = (piece.double().nan_to_num_(0.0) for piece in self._gathered.pieces(name))
                found[name] = torch.cat([torch.empty(0), *(weights @ piece for piece in pieces)]).to(spec.dtype)
                found[name] = found[name].view(spec.shape)
        for a, b in pairs.items():
            new = best_factors(self._product(a, b, weights), flat(self._params[a]))
            for name, value in zip((a, b), new, strict=True):
                before = self._params[name]
                found[name] = (value.reshape(before.shape) - before.double()).to(self._spec[name].dtype)
        return {name: found[name] for name in self._spec}

    def _product(self, a: str, b: str, weights: Tensor) -> Thin:
        """B·A + Σ c_i·(B_i·A_i − B·A)."""
        if self._factors is None:
            raise ValueError("no products are compared")
        terms = [
            (weight, *self._factors.one(a, source))
            for source, weight in zip(self._sources, weights.tolist(), strict=True)
            if weight
        ]
        if abs(rest := 1 - float(weights.sum())) > ROUNDING or not terms:
            terms.append((rest, flat(self._params[a]), flat(self._params[b])))
        return Thin.sum_of(terms)


AGGREGATE = "aggregate"
"""Key of what a `ComparedFold` keeps."""


def _with_references(mix: Tensor, references: int) -> Tensor:
    """M of the updates ``[m, n]``, which leaves k references as they are: ``[m + k, n + k]``."""
    rows, columns = mix.shape
    found = torch.zeros(rows + references, columns + references, dtype=mix.dtype)
    found[:rows, :columns] = mix
    found[rows:, columns:] = torch.eye(references, dtype=mix.dtype)
    return found


def _change(factors: TrainedFactors, name: str, before_a: Tensor, before_b: Tensor, number: int) -> Factors:
    """What an update changes of a product, as L·R."""
    a, b = factors.one(name, number)
    return torch.cat([b, b - before_b], 1), torch.cat([a - before_a, before_a])
