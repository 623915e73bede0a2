"""The factors of a round's clients after training, on disk, and read one pair at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fedfm.aggregation.lora.pairs import pairs
from fedfm.models.low_rank import Thin
from fedfm.params import tensor_bytes
from fedfm.spec import Spec
from fedfm.spill import Spilled
from fedfm.views.base import Slices, holds, widen

_NOTHING = torch.zeros((), dtype=torch.bool)


class TrainedFactors:
    """A_c = A_t + ΔA_c and B_c = B_t + ΔB_c of each client, with its weight.

    A client that returns one factor of a pair has the other as the server sent it. Of a factor that it holds a part of,
    the rest is zero, as it is at the client. A client that returns neither is not counted for that pair. All pairs have
    the same scale α/r, at the server and at every client, so that weights of products are also weights of updates of
    the adapted matrix.
    """

    def __init__(self, spec: Spec, params: Mapping[str, Tensor]) -> None:
        """Nothing yet.

        Args:
            spec: of the whole tunable.
            params: w_t, the values that the updates start from.
        """
        self.pairs: Mapping[str, str] = pairs(spec)
        """Name of each factor A → name of its factor B."""
        self._spec, self._params = spec, params
        self._file = Spilled([])
        self._places: dict[str, list[tuple[float, int]]] = {a: [] for a in self.pairs}
        """Factor A → weight of each client, and where its pair begins in the file."""
        self._held: dict[str, Tensor | None] = {}
        """Factor → the coordinates that clients of its pair have; None: all."""

    def add(self, update: Mapping[str, Tensor], slices: Slices, weight: float) -> None:
        """Writes one client's factors.

        Raises:
            StorageError: the disk is full.
        """
        for a, b in self.pairs.items():
            if a in slices or b in slices:
                self._places[a].append((weight, len(self._file)))
                self._file.append(tensor_bytes(self._trained(name, update, slices)) for name in (a, b))
                for name in (a, b):
                    self._hold(name, slices)

    def trained(self, a: str) -> bool:
        """Whether a client has trained the pair of a factor A."""
        return bool(self._places[a])

    def of(self, a: str) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Each client's share p_c, Σ p_c = 1, with A_c ``[r, in]`` and B_c ``[out, r]`` in float64."""
        whole = sum(weight for weight, _ in self._places[a])
        for weight, start in self._places[a]:
            middle = start + self._bytes(a)
            yield weight / whole, self._read(a, start), self._read(self.pairs[a], middle)

    def count(self, a: str) -> int:
        """Clients that have trained the pair of a factor A."""
        return len(self._places[a])

    def one(self, a: str, number: int) -> tuple[Tensor, Tensor]:
        """A_c ``[r, in]`` and B_c ``[out, r]`` in float64 of the client that was added as number 0, 1, … to a pair."""
        start = self._places[a][number][1]
        return self._read(a, start), self._read(self.pairs[a], start + self._bytes(a))

    def product(self, a: str) -> Thin:
        """Σ p_c·B_c·A_c."""
        return Thin.sum_of(self.of(a))

    def known(self, name: str, values: Tensor) -> Tensor:
        """Values of a factor, with 0 at coordinates that none of the clients has."""
        held = self._held[name]
        return values if held is None else values * held

    def _hold(self, name: str, slices: Slices) -> None:
        if not slices.get(name, ()):  # a factor that it does not return, it has as sent
            self._held[name] = None
        elif (before := self._held.get(name, _NOTHING)) is not None:
            self._held[name] = before | holds(slices, name, self._spec[name].shape)

    def _trained(self, name: str, update: Mapping[str, Tensor], slices: Slices) -> Tensor:
        before = self._params[name]
        if name not in slices:
            return before
        if not slices[name]:
            return before + update[name].to(before.dtype)
        part = {name: update[name].to(before.dtype)}
        change = widen(part, {name: slices[name]}, {name: torch.zeros_like(before)})[name]
        return (before + change) * holds(slices, name, tuple(before.shape))

    def _read(self, name: str, start: int) -> Tensor:
        content = bytearray(self._file[start : start + self._bytes(name)])
        return flat(torch.frombuffer(content, dtype=self._params[name].dtype).view(self._spec[name].shape))

    def _bytes(self, name: str) -> int:
        return self._spec[name].numel * self._params[name].dtype.itemsize


def flat(factor: Tensor) -> Tensor:
    """A factor as a matrix in float64: A ``[r, in]``, B ``[out, r]``; of a convolution, kernels are rows."""
    return factor.double().flatten(1)
