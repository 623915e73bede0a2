"""Versions of a FedPFT proxy: alignment changes some neurons, and a client gets what changed since its own version.

Most clients miss most alignments, since only a cohort takes part in a round. So each neuron's slice of every tensor has
the number of the version in which it last changed, and so has each tensor that belongs to no neuron; what a client
misses follows from the version it holds, however many alignments lie between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.base import ClientCopy, ModelVersion
from fedfm.proxies.fedpft.activity import counting, to_params
from fedfm.proxies.fedpft.construct import kept_blocks, own_parameters
from fedfm.proxies.ffn import Kept, NeuronTensor, neuron_tensors, neurons, output_bias
from fedfm.proxies.matrix_packing import MatrixPacking, named, packed_names, packings, unpack
from fedfm.proxies.settings import Bits

NEURONS = "neurons"
"""Ending of the name of the tensor that says which neurons' slices of another tensor a change holds."""


def slices(blocks: Sequence[Block]) -> dict[str, NeuronTensor]:
    """The tensors of some blocks that change neuron by neuron, by name."""
    return {f"{block.path}.{tensor.name}": tensor for block in blocks for tensor in neuron_tensors(block)}


def first_version(own: Params, blocks: Sequence[Block]) -> ModelVersion:
    """Version 0.

    Args:
        own: the proxy's own parameters.
        blocks: the compressed blocks of the proxy.
    """
    sliced = slices(blocks)
    sizes = {name: (sliced[name].size(tensor),) if name in sliced else () for name, tensor in own.items()}
    return ModelVersion(0, own, {name: torch.zeros(size, dtype=torch.int64) for name, size in sizes.items()})


def next_version(version: ModelVersion, own: Params, touched: Mapping[str, Tensor]) -> ModelVersion:
    """The version after an alignment.

    Args:
        version: the one before.
        own: the proxy's own parameters now.
        touched: name of a tensor → bool [m'], the neurons whose slices may have changed, or bool [] for a tensor that
            belongs to no neuron; tensors that are absent have not changed.
    """
    number = version.number + 1
    changed = {
        name: torch.where(touched[name], number, before) if name in touched else before
        for name, before in version.changed.items()
    }
    return ModelVersion(number, own, changed)


def neurons_touched(own: Params, blocks: Sequence[Block], chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For `next_version`: these neurons, bool [m'] by block path, and every tensor that belongs to no neuron."""
    touched = {name: torch.tensor(True) for name in own}
    for block in blocks:
        touched |= dict.fromkeys(slices([block]), chosen[block.path])
    return touched


def outputs_touched(blocks: Sequence[Block]) -> dict[str, Tensor]:
    """For `next_version`: every FFN's output matrix and its bias."""
    touched = {}
    for block in blocks:
        touched[f"{block.path}.{neuron_tensors(block)[-1].name}"] = torch.ones(neurons(block), dtype=torch.bool)
        if bias := output_bias(block):
            touched[f"{block.path}.{bias}"] = torch.tensor(True)
    return touched


def last_touched(version: ModelVersion, blocks: Sequence[Block]) -> dict[str, Tensor]:
    """The neurons that the latest alignment chose, bool [m'] by block path."""
    inputs = {block.path: f"{block.path}.{neuron_tensors(block)[0].name}" for block in blocks}
    return {path: version.changed[name] == version.number for path, name in inputs.items()}


def changes_since(version: ModelVersion, since: int, blocks: Sequence[Block]) -> Params:
    """What a client at version ``since`` misses: slices of the neurons that changed, and other tensors that did.

    Args:
        version: the present one.
        since: the version that the client holds.
        blocks: the compressed blocks of the proxy.
    """
    found: Params = {}
    sliced = slices(blocks)
    for name, value in version.own.items():
        missed = version.changed[name] > since
        if not missed.any():
            continue
        if name in sliced:
            chosen = torch.nonzero(missed).flatten()
            found[name] = sliced[name].take(value, chosen)
            found[f"{name}.{NEURONS}"] = chosen.to(torch.int32)
        else:
            found[name] = value
    return found


@dataclass
class NeuronCopy(ClientCopy):
    """A client's copy of a FedPFT proxy.

    Attributes:
        blocks: its compressed blocks.
        packed: how tensors of ``own`` are packed in changes.
    """

    blocks: Sequence[Block] = field(default_factory=tuple)
    packed: Mapping[str, MatrixPacking] = field(default_factory=dict)

    @classmethod
    def of(cls, proxy: Backbone, kept: Kept, version: int, bits: Bits) -> Self:
        """The copy that a proxy from a folder is; ``kept`` are its neurons by block path."""
        own = own_parameters(proxy, kept)
        packed = named(own.items(), packings(proxy.model, proxy.family, bits))
        return cls(proxy, own, version, blocks=kept_blocks(proxy, kept), packed=packed)

    @contextmanager
    def counting(self, tunable: Tunable) -> Iterator[Callable[[], Params]]:
        """Counts how much neurons are used in every pass of ``tunable``'s model; gives the counts as named tensors."""
        with counting(tunable.model, self.blocks) as counted:
            yield lambda: to_params(counted)

    def _values(self, changes: Params) -> Params:
        """Whole tensors, and slices beside the tensors that say of which neurons they are."""
        if not changes:
            raise ValueError("the message changes nothing")
        sliced = slices(self.blocks)
        parts = {name: packed_names(name) if name in self.packed else (name,) for name in self.own}
        parts |= {name: (*parts[name], f"{name}.{NEURONS}") for name in sliced}
        if unknown := sorted(changes.keys() - {part for those in parts.values() for part in those}):
            raise ValueError(f"it has no {unknown[0]}")
        there = {name: [part for part in those if part in changes] for name, those in parts.items()}
        shapes: dict[str, list[int]] = {}
        for name, present in there.items():
            if not present:
                continue
            if lacking := [part for part in parts[name] if part not in changes]:
                raise ValueError(f"{present[0]} is there without {lacking[0]}")
            shapes[name] = [*self.own[name].shape]
            if tensor := sliced.get(name):
                chosen = changes[f"{name}.{NEURONS}"]
                if problem := _index_problem(chosen, tensor.size(self.own[name])):
                    raise ValueError(f"{name}.{NEURONS} {problem}")
                shapes[name][tensor.axis] = tensor.copies * len(chosen)
        values = unpack(changes, {name: self.packed[name] for name in shapes if name in self.packed}, shapes)
        for name, shape in shapes.items():
            if [*values[name].shape] != shape:
                raise ValueError(f"{name} has shape {[*values[name].shape]}, not {shape}")
            if values[name].dtype != self.own[name].dtype:
                raise ValueError(f"{name} is {values[name].dtype}, not {self.own[name].dtype}")
        return values

    @torch.no_grad()
    def _write(self, values: Params) -> None:
        sliced = slices(self.blocks)
        for name, mine in self.own.items():
            if name not in values:
                continue
            if name in sliced:
                index = sliced[name].index(values[f"{name}.{NEURONS}"].long(), sliced[name].size(mine))
                mine.index_copy_(sliced[name].axis, index.to(mine.device), values[name].to(mine.device))
            else:
                mine.copy_(values[name])


def _index_problem(chosen: Tensor, width: int) -> str | None:
    """Why a tensor does not name some of ``width`` neurons."""
    if chosen.dtype != torch.int32 or chosen.dim() != 1:
        return f"is {chosen.dtype} of shape {[*chosen.shape]}, not a list of torch.int32"
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < width:
        return f"names neurons that are not among its {width}"
    return None if (chosen.diff() > 0).all() else "does not name neurons in ascending order, each once"
