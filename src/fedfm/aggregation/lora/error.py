"""How far a rule's factors are from the mean of the clients' products.

    e = √Σ_m ‖Σ_c p_c·B_c·A_c − B·A‖_F² / √Σ_m ‖Σ_c p_c·B_c·A_c‖_F²        over the adapted matrices m

A and B are what the rule makes of the round, before the algorithm's server step. For the mean of the factors, B·A is
B̄·Ā, and e is 0 only where the clients agree in one factor. p_c are the rule's weights of clients. The scale α/r is in
both terms, so it cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from fedfm.aggregation.base import Contribution
from fedfm.aggregation.lora.factors import TrainedFactors, flat
from fedfm.models.low_rank import Thin
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices


class AggregationError:
    """Follows a fold; of tunables without pairs of factors it keeps nothing."""

    def __init__(self, spec: Spec, params: Mapping[str, Tensor]) -> None:
        """Nothing yet; the arguments are those of `fedfm.aggregation.Rule.start`."""
        self._params, self._trained = params, TrainedFactors(spec, params)
        self._defined = True

    def add(
        self,
        update: Mapping[str, Tensor],
        contribution: Contribution,
        slices: Slices,
        weigh: Callable[[Contribution], float],
    ) -> None:
        """Takes one update; of a client that started from older factors, these are not known, and e is undefined.

        Raises:
            StorageError: the disk is full.
        """
        self._defined = self._defined and not contribution.staleness
        if self._defined:
            self._trained.add(update, slices, weigh(contribution))

    def of(self, aggregate: Params, replaced: frozenset[str] = frozenset()) -> float | None:
        """The error of a rule's result Δ; None where it is undefined, such as where all products are zero.

        Ranks that no client of the round has count only where the rule decides them.

        Args:
            aggregate: Δ.
            replaced: as `Fold.replaced`.
        """
        known = [a for a in self._trained.pairs if self._trained.trained(a)]
        if not self._defined or not known:
            return None
        lost, whole = [], []
        for a in known:
            mean = self._trained.product(a)
            left, right = (self._new(name, aggregate, replaced) for name in (self._trained.pairs[a], a))
            lost.append((mean - Thin(left, right)).norm())
            whole.append(mean.norm())
        return math.hypot(*lost) / norm if (norm := math.hypot(*whole)) else None

    def _new(self, name: str, aggregate: Params, replaced: frozenset[str]) -> Tensor:
        values = self._params[name].double() + aggregate[name].double()
        return flat(values if name in replaced else self._trained.known(name, values))
