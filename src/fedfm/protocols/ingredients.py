"""A round's updates on disk, by client: for protocols that decide which of them to fold once all are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedfm.params import Params, tensor_bytes
from fedfm.protocols.io import ClientUpdate
from fedfm.spec import Spec, spec_of
from fedfm.spill import Spilled


@dataclass(frozen=True)
class _Stored:
    """Where an update is: the update without its tensors, the specs of its groups, and its first byte."""

    update: ClientUpdate
    specs: Mapping[str, Spec]
    start: int


class Ingredients(Mapping[str, ClientUpdate]):
    """Client id → its update, in the order in which they were added; one update is in memory at a time."""

    def __init__(self) -> None:
        self._file = Spilled([])
        self._places: dict[str, _Stored] = {}

    def add(self, update: ClientUpdate) -> None:
        """Writes an update to disk.

        Raises:
            StorageError: the disk is full.
        """
        specs = {group: spec_of(tensors) for group, tensors in update.groups.items()}
        self._places[update.client] = _Stored(replace(update, groups={}), specs, len(self._file))
        for group, spec in specs.items():
            self._file.append(tensor_bytes(update.groups[group][name]) for name in spec)

    def __getitem__(self, client: str) -> ClientUpdate:
        """An update, read from disk.

        Raises:
            StorageError: it cannot be read.
        """
        place = self._places[client]
        start, groups = place.start, dict[str, Params]()
        for group, spec in place.specs.items():
            groups[group] = {}
            for name, tensor in spec.items():
                size = tensor.numel * tensor.dtype.itemsize
                content = bytearray(self._file[start : start + size])
                groups[group][name] = _tensor(content, tensor.dtype).view(tensor.shape)
                start += size
        return replace(place.update, groups=groups)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _tensor(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
