"""Chunked top-k: in each chunk of values only the largest are sent, in 2 bits each, with error feedback.

Sarfi et al., Communication Efficient LLM Pre-training with SparseLoCo, arXiv:2508.15706: the compression of an update
in which error feedback with `decay` β below 1 takes the place of the server's momentum. Positions are within their
chunk, so that 2 bytes hold one. Of the k values of a chunk each is sent as its sign and as small or large, by whether
its magnitude is below their mean magnitude, with the mean magnitude of both kinds as bfloat16:

    k·(2 + 1/4) + 4 bytes a chunk,   in place of 4·chunk

The residual has what was left out and what rounding lost. The levels are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.params import Params
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.blocks import in_blocks, packed, sound_scales, unpacked
from fedfm.updates.stages.feedback import ErrorFeedback
from fedfm.updates.stages.flat import flatten, prefix, split, unflatten


class ChunkTopK(ErrorFeedback):
    """Send only the values of largest magnitude of each chunk, in 2 bits each, with their positions."""

    flattens: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True

    kind: Literal["chunk-top-k"] = "chunk-top-k"
    """Send only the values of largest magnitude of each chunk, in 2 bits each, with their positions."""
    direction: Literal["up"] = "up"
    """Updates to the server only: parameters are not sparse."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of the values of each chunk that is sent; at least one value is."""
    chunk: Annotated[int, Field(ge=8, le=32_768)] = 4096
    """Values of a chunk."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.95
    """β: share of the residual that is added to the next update."""

    def spec(self, spec: Spec) -> Spec:
        """Codes ``[⌈chunks·k / 4⌉]``, positions ``[chunks·k]`` and scales ``[chunks·2]`` in place of floats."""
        flat, others = split(spec)
        name, (chunks, _, k) = prefix(self.kind, flat), self._size(flat)
        return {
            f"{name}.codes": TensorSpec((-(-chunks * k // 4),), torch.uint8),
            f"{name}.positions": TensorSpec((chunks * k,), torch.int16),
            f"{name}.scales": TensorSpec((chunks * 2,), torch.bfloat16),
            **others,
        }

    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The largest values of each chunk, and their positions."""
        flat, others = split(spec_of(params))
        _, size, k = self._size(flat)
        blocks = in_blocks(flatten(params, flat), size)
        magnitudes = blocks.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
        order = magnitudes.sort(dim=1, descending=True, stable=True).indices
        positions = order[:, :k].sort(dim=1).values
        values = blocks.gather(1, positions)
        large, scales = _two_levels(values.abs())
        name = prefix(self.kind, flat)
        sent = {
            f"{name}.codes": packed((values < 0) + 2 * large, bits=2),
            f"{name}.positions": positions.flatten().to(torch.int16),
            f"{name}.scales": scales.flatten().to(torch.bfloat16),
        }
        return {**sent, **{name: params[name] for name in others}}, {}

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Zeros, with the values that were sent in their positions.

        Raises:
            ValueError: positions are outside their chunk or not in ascending order, or a scale is impossible.
        """
        flat, others = split(spec)
        name, (chunks, size, k) = prefix(self.kind, flat), self._size(flat)
        positions = params[f"{name}.positions"].long().view(chunks, k)
        if chunks and not (positions.min() >= 0 and positions.max() < size and (positions.diff(dim=1) > 0).all()):
            raise ValueError(f"the positions of chunk-top-k are not in ascending order from 0 to {size - 1:,}")
        scales = sound_scales(params[f"{name}.scales"]).view(chunks, 2)
        codes = unpacked(params[f"{name}.codes"], chunks * k, bits=2).long().view(chunks, k)
        values = scales.gather(1, codes >> 1) * (1 - 2 * (codes & 1))
        whole = torch.zeros(chunks, size).scatter_(1, positions, values).view(-1)[: count(flat)]
        return {**unflatten(whole, flat), **{name: params[name] for name in others}}

    def _size(self, flat: Spec) -> tuple[int, int, int]:
        """How many chunks there are, the values of each, and how many of them are sent."""
        values = count(flat)
        size = min(self.chunk, max(1, values))
        return -(-values // size), size, max(1, round(self.share * size))


def _two_levels(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes ``[chunks, k]`` by two levels.

    Returns:
        1 where a magnitude is at least the mean of its chunk, else 0; and the means of both kinds, ``[chunks, 2]``.
    """
    large = magnitudes >= magnitudes.mean(dim=1, keepdim=True)
    sides = torch.stack([~large, large], dim=1).to(magnitudes.dtype)
    sums = (sides * magnitudes[:, None]).sum(dim=2)
    return large.to(torch.int64), sums / sides.sum(dim=2).clamp(min=1)
