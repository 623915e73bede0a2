"""Versions of a proxy: alignment changes some neurons, and a client gets those changed since the version it holds.

Most clients miss most alignments, since only a cohort takes part in a round. So every neuron remembers the version in
which it last changed; what a client misses follows from the version it holds, however many alignments lie between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedfm.errors import FedfmError
from fedfm.models.families import Block
from fedfm.params import Params
from fedfm.proxies.ffn import neuron_tensors

NEURONS = "neurons"
"""Name, from a block, of the tensor that says which neurons a change holds."""


class StaleProxyError(FedfmError):
    """A client's proxy is not at the version that an instruction brings up to date."""


@dataclass(frozen=True)
class ProxyVersion:
    """The part of a proxy that alignment changes, at one version.

    Attributes:
        number: 0 as distilled before round 1; each alignment makes the next.
        own: the proxy's own parameters by their names from the base model.
        changed: path of each compressed block → int64 [m'], the version in which each neuron last changed.
    """

    number: int
    own: Params
    changed: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def first(cls, own: Params, blocks: Sequence[Block]) -> ProxyVersion:
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
        return cls(0, own, {path: torch.zeros(count, dtype=torch.int64) for path, count in counts.items()})

    def next(self, own: Params, chosen: Mapping[str, Tensor]) -> ProxyVersion:
        """The version after an alignment.

        Args:
            own: the proxy's own parameters now.
            chosen: path of each compressed block → bool [m'], the neurons that may have changed.
        """
        number = self.number + 1
        changed = {path: torch.where(chosen[path], number, before) for path, before in self.changed.items()}
        return ProxyVersion(number, own, changed)

    def changes(self, since: int, blocks: Sequence[Block]) -> Params:
        """What a client that holds version ``since`` misses: slices of the changed neurons, and what no neuron owns.

        Args:
            since: the version it holds.
            blocks: the compressed blocks of the proxy.
        """
        if since >= self.number:
            return {}
        found: Params = {}
        rest = dict(self.own)
        for block in blocks:
            chosen = torch.nonzero(self.changed[block.path] > since).flatten()
            for tensor in neuron_tensors(block):
                name = f"{block.path}.{tensor.name}"
                found[name] = tensor.take(rest.pop(name), chosen)
            found[f"{block.path}.{NEURONS}"] = chosen.to(torch.int32)
        return {**found, **rest}


@dataclass
class HeldProxy:
    """A proxy as a client holds it.

    Attributes:
        own: its own parameters by their names from the base model; written in place.
        blocks: its compressed blocks.
        number: the version they are at.
    """

    own: Mapping[str, Tensor]
    blocks: Sequence[Block]
    number: int = 0

    @torch.no_grad()
    def download(self, version: ProxyVersion) -> None:
        """Takes a whole version, as a client does that has none."""
        for name, mine in self.own.items():
            mine.copy_(version.own[name])
        self.number = version.number

    def receive(self, changes: Params, *, since: int, number: int) -> None:
        """Brings the proxy to version ``number``; nothing happens where it is there already.

        Args:
            changes: as `ProxyVersion.changes` makes them.
            since: the oldest version that they bring up to date.
            number: the version that they lead to.

        Raises:
            StaleProxyError: the proxy is older than ``since``, newer than ``number``, or another than the changes are
                of; nothing is written.
        """
        if number == self.number:
            return
        if not since <= self.number < number:
            raise StaleProxyError(
                f"the client holds version {self.number} of the proxy, and the message leads from {since} to {number}; "
                "it must download the proxy again"
            )
        if problem := self._problem(changes):
            raise StaleProxyError(f"the message changes another proxy than the one that the client holds: {problem}")
        self._write(changes)
        self.number = number

    def _problem(self, changes: Params) -> str | None:
        """Why changes do not fit this proxy."""
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
