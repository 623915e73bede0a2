"""Sub-models: a weak device holds a share of the neurons and attention heads, the most salient ones.

Yu et al., Bridging the Gap Between Foundation Models and Heterogeneous Federated Learning (RaFFM), arXiv:2310.00247:
the parts of a pretrained model are ordered by salience, and a client gets the first of them. Diao et al., HeteroFL,
arXiv:2010.01264: each coordinate is averaged over the clients that hold it. Units here are the neurons of an FFN and
whole heads of attention; the width between layers stays, so that norms, embeddings and the head are everyone's.

A unit that a client does not hold is zero there and does not change. It then computes nothing: the client's function is
that of a smaller model. A smaller share is part of a larger one.

The salience of a unit is the sum of the sizes of its weights before round 1 (L1), in fixed-point integers, so that
server and clients find the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from fedfm.client_patterns import first_match
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec
from fedfm.views.base import Anatomy, Index, Slices, View, whole

_FIXED_POINT, _LARGEST = 2.0**24, 2.0**12
"""Steps of 1 in which sizes of weights are added up, and the size from which on weights count alike."""


@dataclass(frozen=True)
class Width(View):
    """Which share of the units each client holds.

    Attributes:
        budgets: dealt to clients at random, each alike; or pattern of client ids → share, the first that matches counts
            and a client that matches none holds everything.
        seed: the run's seed.
        anatomy: where units are in the tunable.
        order: group of units → their numbers, int64, the most salient first.
    """

    reads_anatomy: ClassVar[bool] = True

    budgets: tuple[float, ...] | Mapping[str, float]
    seed: int = 0
    anatomy: Anatomy = field(default_factory=dict)
    order: Mapping[str, Tensor] = field(default_factory=dict)
    _found: dict[float, Slices] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The recipe's `federation.budgets`."""
        budgets = recipe.federation.budgets
        if not budgets:
            return None
        return cls(dict(budgets) if isinstance(budgets, Mapping) else tuple(budgets), recipe.seed)

    def on(self, anatomy: Anatomy, start: Mapping[str, Tensor]) -> Self:
        """The view with the units of a model, ordered by the tunable before round 1."""
        return replace(self, anatomy=anatomy, order=salience_order(anatomy, start), _found={})

    def share(self, client: str) -> float:
        """A client's share of the units; 1 for everything."""
        if isinstance(self.budgets, Mapping):
            return first_match(self.budgets, client, 1.0)
        return float(numpy_generator(self.seed, "budget", client=client).choice(self.budgets))

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """The most salient units; all of tensors without units."""
        share = self.share(client)
        if share >= 1:
            return whole(spec)
        if share not in self._found:
            self._found[share] = {name: self._part(name, spec[name].shape, share) for name in spec}
        return self._found[share]

    def _part(self, name: str, shape: tuple[int, ...], share: float) -> tuple[Index, ...]:
        unit = self.anatomy.get(name)
        if unit is None:
            return ()
        kept = self.order[unit.group][: max(1, round(share * unit.count))].sort().values
        return (*[slice(None)] * unit.axis, unit.positions(kept, shape[unit.axis]))


def salience_order(anatomy: Anatomy, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Group → its units, the most salient first; of equal ones, those that come first."""
    totals: dict[str, np.ndarray] = {}
    for name, unit in anatomy.items():
        sizes = start[name].double().abs().clamp(max=_LARGEST).mul(_FIXED_POINT).long().movedim(unit.axis, 0)
        rows = sizes.reshape(unit.copies, unit.count, -1).sum((0, 2)).numpy()
        totals[unit.group] = totals.get(unit.group, np.zeros(unit.count, dtype=np.int64)) + rows
    return {group: torch.from_numpy(np.argsort(-total, kind="stable")) for group, total in totals.items()}
