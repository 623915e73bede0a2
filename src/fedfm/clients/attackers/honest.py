"""The honest updates of a round, as colluding attackers know them: on disk, read tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedfm.aggregation.gathered import Gathered
from fedfm.aggregation.robust.grams import gram
from fedfm.params import Params
from fedfm.spec import Spec
from fedfm.views.base import Slices, whole


class HonestUpdates:
    """Mean, standard deviation and scalar products of whole updates, of at least one."""

    def __init__(self, spec: Spec) -> None:
        """Nothing yet.

        Args:
            spec: of the tunable.
        """
        self._spec, self._gathered = spec, Gathered(spec)

    def __len__(self) -> int:
        return len(self._gathered)

    def add(self, update: Mapping[str, Tensor], slices: Slices, copies: int = 1) -> None:
        """Writes one update, which counts ``copies`` times."""
        self._gathered.add(update, slices, copies)

    def mean(self) -> Params:
        """The mean at each coordinate."""
        return self._each(lambda values: values.mean(0))

    def deviation(self) -> Params:
        """The standard deviation at each coordinate, with n − 1 in its denominator; 0 of one update."""
        return self._each(lambda values: values.std(0) if len(values) > 1 else torch.zeros_like(values[0]))

    def products_with(self, *others: Mapping[str, Tensor]) -> Tensor:
        """Scalar products ``[n + k, n + k]`` in float64: of the updates, then of k more vectors."""
        everyone = Gathered(self._spec)
        for number in range(len(self)):
            everyone.add(self._row(number), whole(self._spec))
        for other in others:
            everyone.add(other, whole(self._spec))
        return gram(everyone, self._spec)

    def _row(self, number: int) -> Params:
        found = {}
        for name, spec in self._spec.items():
            pieces = [piece[number] for piece in self._gathered.pieces(name)]
            found[name] = torch.cat([torch.empty(0, dtype=spec.dtype), *pieces]).view(spec.shape)
        return found

    def _each(self, statistic: Callable[[Tensor], Tensor]) -> Params:
        found = {}
        for name, spec in self._spec.items():
            pieces = [statistic(piece.double().nan_to_num_(0.0)) for piece in self._gathered.pieces(name)]
            found[name] = torch.cat([torch.empty(0), *pieces]).to(spec.dtype).view(spec.shape)
        return found
