"""Updates of a round on disk, read a few coordinates at a time: for rules that need all updates at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

import torch
from torch import Tensor

from fedfm.aggregation.base import Contribution, Fold
from fedfm.params import Params, tensor_bytes
from fedfm.spec import Spec, TensorSpec
from fedfm.spill import Spilled
from fedfm.views.base import Slices, widen

AT_ONCE = 2**22
"""Values in memory at once, at most, over all updates; one coordinate of each where there are more updates."""

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Sorted values ``[updates, coordinates]``, ascending with NaN last, and how many of each column are numbers
``[coordinates]`` → ``[coordinates]``; where no value is a number, the result is not read."""


class Gathered:
    """One file with every update in full coordinates; a coordinate that a client does not hold is NaN there."""

    def __init__(self, spec: Spec) -> None:
        """Nothing yet.

        Args:
            spec: of the whole tunable; floating-point tensors.
        """
        self._spec = spec
        sizes = [tensor.numel * tensor.dtype.itemsize for tensor in spec.values()]
        *starts, self._stride = accumulate(sizes, initial=0)
        self._starts = dict(zip(spec, starts, strict=True))
        self._copies: list[int] = []
        self._file = Spilled([])

    def __len__(self) -> int:
        return sum(self._copies)

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self._spec)

    def add(self, update: Mapping[str, Tensor], slices: Slices, copies: int = 1) -> None:
        """Writes one update, which counts ``copies`` times.

        Raises:
            StorageError: the disk is full.
        """
        for name, tensor in self._spec.items():
            absent = {name: torch.full(tensor.shape, torch.nan, dtype=tensor.dtype)}
            whole = widen(update, slices, absent)[name] if slices.get(name, (0,)) else update[name]
            self._file.append([tensor_bytes(whole)])
        self._copies.append(copies)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The values of one tensor in order, ``[updates, coordinates]``, a few coordinates at a time."""
        spec = self._spec[name]
        size, step = spec.dtype.itemsize, max(1, AT_ONCE // max(1, len(self)))
        for start in range(0, spec.numel, step):
            stop = min(start + step, spec.numel)
            rows = []
            for number, copies in enumerate(self._copies):
                begin = number * self._stride + self._starts[name]
                content = bytearray(self._file[begin + start * size : begin + stop * size])
                rows += [torch.frombuffer(content, dtype=spec.dtype)] * copies
            yield torch.stack(rows)


Rows = Callable[[Gathered], Tensor]
"""The updates of a round → M ``[m, updates]`` in float64, whose rows are linear combinations of them."""


class OrderFold(Fold):
    """A fold by order statistics: at each coordinate, of the sorted values of those that hold it."""

    def __init__(self, spec: Spec, statistic: Statistic, rows: Rows | None = None) -> None:
        """An empty fold.

        Args:
            spec: of the tunable.
            statistic: what is taken at each coordinate.
            rows: replaces the updates by linear combinations of them; where it is given, each update must be whole.
        """
        self._spec, self._statistic, self._gathered = spec, statistic, Gathered(spec)
        self._rows, self._mix = rows, torch.empty(0)

    def add(self, update: Mapping[str, Tensor], contribution: Contribution, slices: Slices) -> None:
        """Writes one update to disk, as `fedfm.aggregation.base.Fold.add`."""
        self._gathered.add(update, slices, contribution.copies)

    def result(self) -> Params:
        """The statistic in the dtype of the updates; it ends the fold.

        Raises:
            ValueError: nothing was folded in.
        """
        if not len(self._gathered):
            raise ValueError("no updates to combine")
        if self._rows is not None:
            self._mix = self._rows(self._gathered)
        return {name: self._tensor(name, spec) for name, spec in self._spec.items()}

    def _tensor(self, name: str, spec: TensorSpec) -> Tensor:
        found = [self._combined(piece.double()) for piece in self._gathered.pieces(name)]
        return torch.cat([torch.empty(0), *found]).to(spec.dtype).view(spec.shape)

    def _combined(self, values: Tensor) -> Tensor:
        if self._rows is not None:
            values = self._mix @ values
        counts = (~values.isnan()).sum(0)
        combined = self._statistic(values.sort(dim=0).values, counts)  # NaN, what is not held, comes last
        return combined.where(counts > 0, 0)
