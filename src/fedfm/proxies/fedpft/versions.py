"""Versions of a FedPFT proxy: alignment changes some neurons, and a client gets those changed since its own version.

Most clients miss most alignments, since only a cohort takes part in a round. So every neuron has the number of the
version in which it last changed; what a client misses follows from the version it holds, however many alignments lie
between.
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
from fedfm.proxies.ffn import Kept, neuron_tensors

NEURONS = "neurons"
"""Name, from a block, of the tensor that says which neurons a change holds."""


def first_version(own: Params, blocks: Sequence[Block]) -> ModelVersion:
    """Version 0.

    Args:
        own: the proxy's own parameters.
        blocks: the compressed blocks of the proxy.
    """
    counts = {
        block.path: tensor.size(own[f"{block.path}.{tensor.name}"])
        for block in blocks
        for tensor in neuron_tensors(block)
    }
    return ModelVersion(0, own, {path: torch.zeros(count, dtype=torch.int64) for path, count in counts.items()})


def next_version(version: ModelVersion, own: Params, chosen: Mapping[str, Tensor]) -> ModelVersion:
    """The version after an alignment.

    Args:
        version: the one before.
        own: the proxy's own parameters now.
        chosen: path of each compressed block → bool [m'], the neurons that may have changed.
    """
    number = version.number + 1
    changed = {path: torch.where(chosen[path], number, before) for path, before in version.changed.items()}
    return ModelVersion(number, own, changed)


def changes_since(version: ModelVersion, since: int, blocks: Sequence[Block]) -> Params:
    """What a client at version ``since`` misses: slices of the changed neurons, and what belongs to no neuron.

    Args:
        version: the present one.
        since: the version that the client holds.
        blocks: the compressed blocks of the proxy.
    """
    if since >= version.number:
        return {}
    found: Params = {}
    rest = dict(version.own)
    for block in blocks:
        chosen = torch.nonzero(version.changed[block.path] > since).flatten()
        for tensor in neuron_tensors(block):
            name = f"{block.path}.{tensor.name}"
            found[name] = tensor.take(rest.pop(name), chosen)
        found[f"{block.path}.{NEURONS}"] = chosen.to(torch.int32)
    return {**found, **rest}


@dataclass
class NeuronCopy(ClientCopy):
    """A client's copy of a FedPFT proxy.

    Attributes:
        blocks: its compressed blocks.
    """

    blocks: Sequence[Block] = field(default_factory=tuple)

    @classmethod
    def of(cls, proxy: Backbone, kept: Kept, version: int) -> Self:
        """The copy that a proxy from a folder is; ``kept`` are its neurons by block path."""
        return cls(proxy, own_parameters(proxy, kept), version, blocks=kept_blocks(proxy, kept))

    @contextmanager
    def counting(self, tunable: Tunable) -> Iterator[Callable[[], Params]]:
        """Counts how much neurons are used in every pass of ``tunable``'s model; gives the counts as named tensors."""
        with counting(tunable.model, self.blocks) as counted:
            yield lambda: to_params(counted)

    def _problem(self, changes: Params) -> str | None:
        expected = self.own.keys() | {f"{block.path}.{NEURONS}" for block in self.blocks}
        if differing := sorted(changes.keys() ^ expected):
            return f"{differing[0]} is in one of them only"
        shapes = {name: [*mine.shape] for name, mine in self.own.items()}
        for block in self.blocks:
            chosen = changes[f"{block.path}.{NEURONS}"]
            for tensor in neuron_tensors(block):
                name = f"{block.path}.{tensor.name}"
                if problem := _index_problem(chosen, tensor.size(self.own[name])):
                    return f"{block.path}.{NEURONS} {problem}"
                shapes[name][tensor.axis] = tensor.copies * len(chosen)
        for name, shape in shapes.items():
            if [*changes[name].shape] != shape:
                return f"{name} has shape {[*changes[name].shape]}, not {shape}"
            if changes[name].dtype != self.own[name].dtype:
                return f"{name} is {changes[name].dtype}, not {self.own[name].dtype}"
        return None

    @torch.no_grad()
    def _write(self, changes: Params) -> None:
        rest = dict(self.own)
        for block in self.blocks:
            chosen = changes[f"{block.path}.{NEURONS}"].long()
            for tensor in neuron_tensors(block):
                mine = rest.pop(name := f"{block.path}.{tensor.name}")
                index = tensor.index(chosen, tensor.size(mine))
                mine.index_copy_(tensor.axis, index.to(mine.device), changes[name].to(mine.device))
        for name, mine in rest.items():
            mine.copy_(changes[name])


def _index_problem(chosen: Tensor, width: int) -> str | None:
    """Why a tensor does not name some of ``width`` neurons."""
    if chosen.dtype != torch.int32 or chosen.dim() != 1:
        return f"is {chosen.dtype} of shape {[*chosen.shape]}, not a list of torch.int32"
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < width:
        return f"names neurons that are not among its {width}"
    return None if (chosen.diff() > 0).all() else "does not name neurons in ascending order, each once"
