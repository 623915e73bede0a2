"""Views: which part of each tensor a client gets, trains and returns in a round.

A view is a function of the spec, the client and the round, so that server and client compute it separately. A view may
also depend on a choice of the server, which then travels with the message.
What a client does not hold is its own (a personal part, which it keeps between rounds), or fixed (as initialised), or
received but not trained, or hidden (it is zero at the client and does not change).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fedfm.params import Params
from fedfm.spec import Spec, TensorSpec

Index = slice | Tensor
"""Positions along one dimension: a slice, or int64 positions in ascending order."""

Slices = Mapping[str, tuple[Index, ...]]
"""Tensor name → its part, one index for each of the first dimensions; names that are absent are not held."""


@dataclass(frozen=True)
class UnitAxis:
    """Where the units of a group, such as the neurons of an FFN or the heads of attention, are in one tensor.

    Attributes:
        group: names the units; tensors with one group have parts of the same units.
        axis: the dimension that counts them.
        count: how many units.
        copies: how often all units follow each other on it: 2 where gate and up are one matrix, else 1.
    """

    group: str
    axis: int
    count: int
    copies: int = 1

    def positions(self, units: Tensor, length: int) -> Tensor:
        """Where some units are on an axis of this length, int64, ascending; ``units`` must ascend."""
        size = length // (self.count * self.copies)
        starts = torch.cat([(copy * self.count + units) * size for copy in range(self.copies)])
        return (starts[:, None] + torch.arange(size)).flatten()


Anatomy = Mapping[str, UnitAxis]
"""Tensor name → where units are in it; tensors without units are absent."""
CHOICE = "choice"
"""Group of an instruction: the choice of the server for the views of one round of a client."""


class View:
    """What one kind of view says; a subclass overrides what it restricts."""

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The view of this kind that a recipe asks for; None if it does not ask for one."""
        raise NotImplementedError

    reads_anatomy: ClassVar[bool] = False
    """Whether it depends on units of the model; `on` then gives it what it needs."""

    def on(self, anatomy: Anatomy, start: Mapping[str, Tensor]) -> Self:
        """The view with what a model decides filled in.

        Args:
            anatomy: where units are in the tunable.
            start: the tunable before round 1, the same at server and clients.
        """
        return self

    def under(self, choice: Mapping[str, Tensor], spec: Spec) -> Self:
        """The view under a choice of the server; by default a view does not depend on it.

        Args:
            choice: group ``choice`` of a message.
            spec: of the whole tunable.

        Raises:
            ValueError: the choice does not fit.
        """
        return self

    def gets(self, spec: Spec, client: str, number: int) -> Slices:
        """The part of the server's tensors that a client gets in a round; by default what it returns."""
        return self.held(spec, client, number)

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """The part that a client trains and returns in a round."""
        return whole(spec)

    def personal(self, spec: Spec) -> frozenset[str]:
        """Names of tensors that each client has for itself: neither sent nor returned, trained every round."""
        return frozenset()

    def fixed(self, spec: Spec) -> frozenset[str]:
        """Names of tensors that keep their initial values in the whole run: neither sent nor trained nor returned."""
        return frozenset()

    @property
    def period(self) -> int:
        """Rounds after which the parts that a client holds repeat."""
        return 1


def whole(spec: Spec) -> Slices:
    """All of every tensor."""
    return dict.fromkeys(spec, ())


def is_whole(slices: Slices, spec: Spec) -> bool:
    """Whether a part is everything."""
    return slices.keys() == spec.keys() and not any(slices.values())


def intersect(a: Slices, b: Slices, spec: Spec) -> Slices:
    """What both hold."""
    return {name: _both(a[name], b[name], spec[name].shape) for name in a if name in b}


def narrow(params: Mapping[str, Tensor], slices: Slices) -> Params:
    """The parts of tensors that are held; a tensor that is held whole is the same object."""
    return {name: _part(params[name], index) for name, index in slices.items()}


def narrow_spec(spec: Spec, slices: Slices) -> Spec:
    """The spec of what `narrow` returns."""
    return {name: _narrowed(spec[name], index) for name, index in slices.items()}


def _narrowed(spec: TensorSpec, index: tuple[Index, ...]) -> TensorSpec:
    if not index:
        return spec
    return TensorSpec(tuple(_part(torch.empty(spec.shape, device="meta"), index).shape), spec.dtype)


def widen(part: Mapping[str, Tensor], slices: Slices, into: Mapping[str, Tensor]) -> Params:
    """Full tensors: ``part`` where it is held and ``into`` elsewhere; ``into`` is not changed."""
    return {
        name: _written(tensor, slices[name], part[name]) if name in slices else tensor for name, tensor in into.items()
    }


def holds(slices: Slices, name: str, shape: tuple[int, ...]) -> Tensor:
    """Bool tensor of ``shape``: which coordinates of one tensor are held."""
    mask = torch.zeros(shape, dtype=torch.bool)
    if name in slices:
        mask = _written(mask, slices[name], torch.ones_like(_part(mask, slices[name])))
    return mask


def _part(tensor: Tensor, index: tuple[Index, ...]) -> Tensor:
    for dimension, positions in enumerate(index):
        if isinstance(positions, slice):
            start, stop, _ = positions.indices(tensor.shape[dimension])
            tensor = tensor.narrow(dimension, start, max(stop - start, 0))
        else:
            tensor = tensor.index_select(dimension, positions.to(tensor.device))
    return tensor


def _written(full: Tensor, index: tuple[Index, ...], part: Tensor) -> Tensor:
    if not index:
        return part
    result = full.clone()
    axes = [_positions(positions, full.shape[dimension]) for dimension, positions in enumerate(index)]
    axes += [torch.arange(size) for size in full.shape[len(index) :]]
    result[torch.meshgrid(*axes, indexing="ij")] = part.to(result.dtype)
    return result


def _both(a: tuple[Index, ...], b: tuple[Index, ...], shape: tuple[int, ...]) -> tuple[Index, ...]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    found = list(longer)
    for dimension, index in enumerate(shorter):
        mine, theirs = (_positions(each, shape[dimension]) for each in (longer[dimension], index))
        found[dimension] = mine[torch.isin(mine, theirs)]
    return tuple(found)


def _positions(index: Index, size: int) -> Tensor:
    return torch.arange(size)[index] if isinstance(index, slice) else index
