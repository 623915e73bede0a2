"""The weighted mean of updates: Δ = Σ w_c·Δ_c / Σ w_c, at each coordinate over the clients that hold it.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv:1602.05629,
Algorithm 1. Weights by examples n_c, or all equal. Under `sampling: weighted` clients are drawn in proportion to n_c
already (Li et al., arXiv:1907.02189, scheme I), so each draw weighs the same and `auto` takes equal weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold, Rule
from fedfm.capabilities import EXAMPLE_COUNTS, WEIGHTED_MEAN
from fedfm.params import Params
from fedfm.settings import Capabilities
from fedfm.spec import Spec
from fedfm.views.base import Index, Slices, holds, narrow, widen

AT_ONCE = 2**15
"""Values that are in float64 beside the sum, at most; torch computes so few values in one thread."""


class Weighted(Rule):
    """A rule that weighs clients by their examples, or alike."""

    weights: Literal["auto", "examples", "uniform"] = "auto"
    """`examples` counts a client by its examples, `uniform` counts clients alike; `auto` fits the sampling."""

    def capabilities(self) -> Capabilities:
        """Also what weights by examples rely on."""
        said = super().capabilities()
        if self.weights != "examples":
            return said
        needs = {**said.needs, EXAMPLE_COUNTS: "`aggregate.weights: examples` weighs by them; use auto or uniform"}
        return Capabilities(needs, said.gives, said.takes)

    def under(self, sampling: str) -> Self:
        """The rule with what ``federation.sampling`` decides filled in."""
        weights = "uniform" if sampling == "weighted" else "examples"
        return self.model_copy(update={"weights": weights}) if self.weights == "auto" else self

    def weight(self, contribution: Contribution) -> float:
        """Weight of one update."""
        return float(contribution.copies * (1 if self.weights == "uniform" else contribution.examples))

    def mean(self, spec: Spec) -> MeanFold:
        """An empty fold to the weighted mean."""
        return MeanFold(spec, lambda update, contribution, _: dict.fromkeys(update, self.weight(contribution)))

    def start(self, spec: Spec, params: Mapping[str, Tensor]) -> Fold:
        """An empty fold to the weighted mean."""
        return self.mean(spec)


class Mean(Weighted):
    """Weighted mean, folded update by update: memory does not grow with the cohort."""

    rule: Literal["mean"] = "mean"
    """How updates are combined."""

    gives: ClassVar[frozenset[str]] = frozenset({WEIGHTED_MEAN})


Weigh = Callable[[Mapping[str, Tensor], Contribution, Slices], Mapping[str, float]]
"""The arguments of `fedfm.aggregation.base.Fold.add` → the weight of each tensor of that update."""


class MeanFold(Fold):
    """A running weighted mean in float64; feed it in a fixed order and the result is fixed to the bit."""

    def __init__(self, spec: Spec, weigh: Weigh) -> None:
        """An empty fold.

        Args:
            spec: of the whole tensors.
            weigh: the weight of each tensor of an update.
        """
        self._spec, self._weigh = spec, weigh
        self._sum: Params = {}
        self._weights = dict.fromkeys(spec, 0.0)
        """Sum of the weights of each tensor's updates."""
        self._held: dict[str, Tensor] = {}
        """Sum of weights at each coordinate, of tensors that some update holds a part of."""
        self._updates = 0

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Folds in one update, as `fedfm.aggregation.base.Fold.add`."""
        self._updates += 1
        weights = self._weigh(update, contribution, slices)
        for name, index in slices.items():
            self._fold(name, update[name], weights[name], index)

    def _fold(self, name: str, update: Tensor, weight: float, index: tuple[Index, ...]) -> None:
        shape = self._spec[name].shape
        if index and name not in self._held:
            self._held[name] = torch.full(shape, self._weights[name], dtype=torch.float64)
        if name in self._held:
            self._held[name] += weight * holds({name: index}, name, shape)
        self._weights[name] += weight
        if name not in self._sum:
            self._sum[name] = torch.zeros(shape, dtype=torch.float64)
        if not index:
            _add(self._sum[name], update, weight)
            return
        part = {name: index}
        total = narrow(self._sum, part)[name] + weight * update.double()
        self._sum[name] = widen({name: total}, part, {name: self._sum[name]})[name]

    def result(self) -> Params:
        """The mean, in the dtype of the updates; it ends the fold and frees its memory tensor by tensor.

        Raises:
            ValueError: nothing was folded in.
        """
        if not self._updates:
            raise ValueError("the mean of no updates is undefined")
        return {name: self._mean(name).to(spec.dtype) for name, spec in self._spec.items()}

    def _mean(self, name: str) -> Tensor:
        if not self._weights[name]:
            return torch.zeros(self._spec[name].shape, dtype=torch.float64)
        if name not in self._held:
            return self._sum.pop(name).div_(self._weights[name])
        weights = self._held.pop(name)
        return self._sum.pop(name).div_(weights.where(weights > 0, 1))


def _add(total: Tensor, update: Tensor, weight: float) -> None:
    """Total += weight·update, a few values at a time where they are many."""
    for into, values in zip(_pieces(total), _pieces(update), strict=True):
        into.add_(values.to(torch.float64, copy=True).mul_(weight))


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor, or its values a few at a time where it is large."""
    if tensor.numel() <= AT_ONCE:
        yield tensor
        return
    values = tensor.reshape(-1)
    yield from (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
