"""How much of the backbone a proxy gives away, block by block: values that clients hold unchanged, or nearly so.

A value counts where the row that it is in has a cosine above 0.999 with the backbone's: a neuron's vector in the FFN's
matrices, a row of another matrix, a whole bias or norm. Fitting moves kept neurons, some of them very little: equal
bits would not tell what a client learns of the backbone. Embeddings are outside blocks; clients hold all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.proxies.ffn import NeuronTensor, neuron_tensors
from fedfm.proxies.folder import base_parameters
from fedfm.proxies.precision import wide

NEAR = 0.999
"""Cosine above which a row counts as the backbone's."""


def near_copies(
    backbone: Backbone,
    proxy: Backbone,
    kept: Mapping[str, Tensor],
    origins: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Share of each of the backbone's blocks that clients hold, 0 to 1, by its path; 0 for blocks that a proxy lacks.

    Args:
        backbone: that the proxy was made of; a tunable may be attached.
        proxy: of the backbone; likewise.
        kept: its neurons by block path.
        origins: path in the backbone by path in the proxy, of blocks whose paths differ.
    """
    theirs, mine = base_parameters(backbone.model), base_parameters(proxy.model)
    counts = {block.path: 0 for block in blocks(backbone.model, backbone.family)}
    sizes = {path: sum(tensor.numel() for tensor in _inside(theirs, path).values()) for path in counts}
    for block in blocks(proxy.model, proxy.family):
        path = (origins or {}).get(block.path, block.path)
        originals = _inside(theirs, path)
        neurons = _neurons(block) if block.path in kept else {}
        for name, tensor in _inside(mine, block.path).items():
            if (sliced := neurons.get(name)) is None:
                counts[path] += _near(tensor, originals[name])
            else:
                original = sliced.take(originals[name], kept[block.path])
                counts[path] += _near(tensor.movedim(sliced.axis, 0), original.movedim(sliced.axis, 0))
    return {path: counts[path] / sizes[path] for path in counts}


def disclosed(backbone: Backbone, shares: Mapping[str, float]) -> float:
    """The share of all blocks together, from `near_copies`; 0 to 1."""
    theirs = base_parameters(backbone.model)
    sizes = {path: sum(tensor.numel() for tensor in _inside(theirs, path).values()) for path in shares}
    return sum(shares[path] * size for path, size in sizes.items()) / sum(sizes.values())


def _inside(params: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The parameters of a block by their names from it."""
    return {name.removeprefix(f"{path}."): tensor for name, tensor in params.items() if name.startswith(f"{path}.")}


def _neurons(block: Block) -> dict[str, NeuronTensor]:
    return {tensor.name: tensor for tensor in neuron_tensors(block)}


def _near(tensor: Tensor, original: Tensor) -> int:
    """How many values are in rows that are nearly the original's; a vector is one row."""
    rows, others = (wide(part).reshape(len(part) if part.dim() > 1 else 1, -1) for part in (tensor, original))
    products, norms = (rows * others).sum(1), rows.norm(dim=1) * others.norm(dim=1)
    near = (products > NEAR * norms) | ((rows == 0) & (others == 0)).all(1)
    return int(near.sum()) * rows.shape[1]
