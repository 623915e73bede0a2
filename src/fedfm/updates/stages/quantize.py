"""Block quantisation: values as 8-bit integers with one scale a block, rounded at random so that the mean is exact.

Alistarh et al., QSGD, arXiv:1610.02132 (stochastic rounding); Dettmers et al., 8-bit Optimizers via Block-wise
Quantization, arXiv:2110.02861 (blocks). For a block x with scale s ≥ max|x| / 127:

    q = ⌊x/s⌋ + (1 with probability x/s − ⌊x/s⌋),   so that E[q·s] = x

Scales are bfloat16, rounded up: they have the range of float32, and one byte in 64 of the values' is spent on them with
`block: 128`. A group travels as one flat tensor with the digest of its spec in place of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from fedfm.params import Params, is_finite
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.base import Stage
from fedfm.updates.stages.flat import flatten, prefix, split, unflatten

LEVELS = 127
"""Largest integer of 8 bits, both ways."""


class Quantize(Stage):
    """Send values as 8-bit integers, with a scale for each block."""

    flattens: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    """Send values as 8-bit integers, with a scale for each block."""
    bits: Literal[8] = 8
    """Bits a value."""
    block: Annotated[int, Field(ge=8, le=1_000_000)] = 128
    """Values that share a scale: a smaller block is more accurate and costs 2 bytes more for each."""

    def spec(self, spec: Spec) -> Spec:
        """Integers ``[values]`` and scales ``[blocks]`` in place of floating-point tensors; others are unchanged."""
        flat, others = split(spec)
        name, values = prefix(self.kind, flat), count(flat)
        return {
            f"{name}.values": TensorSpec((values,), torch.int8),
            f"{name}.scales": TensorSpec((-(-values // self.block),), torch.bfloat16),
            **others,
        }

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """Integers and scales."""
        flat, others = split(spec_of(params))
        values = flatten(params, flat).float()
        blocks = pad(values, (0, -len(values) % self.block)).view(-1, self.block)
        scales = _scales(blocks)
        steps = (blocks / scales.float()[:, None]).nan_to_num(0, 0, 0)  # a scale that is 0 or not finite
        down = steps.floor()
        up = torch.from_numpy(generator.random(down.shape, dtype=np.float32)) < steps - down
        integers = (down + up).clamp(-LEVELS, LEVELS).to(torch.int8)
        name = prefix(self.kind, flat)
        sent = {f"{name}.values": integers.view(-1)[: len(values)], f"{name}.scales": scales}
        return {**sent, **{name: params[name] for name in others}}, own

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Integers times their block's scale.

        Raises:
            ValueError: a scale is negative or not finite.
        """
        flat, others = split(spec)
        name = prefix(self.kind, flat)
        integers, scales = params[f"{name}.values"], params[f"{name}.scales"].float()
        if not is_finite(scales) or (scales < 0).any():
            raise ValueError("a scale of the quantised values is negative or not finite")
        values = integers.float() * scales.repeat_interleave(self.block)[: len(integers)]
        return {**unflatten(values, flat), **{name: params[name] for name in others}}


def _scales(blocks: Tensor) -> Tensor:
    """Max|x| / 127 of each block ``[blocks, block]``, as bfloat16 rounded up; infinite where a value is not finite."""
    largest = blocks.abs().amax(1).nan_to_num(nan=torch.inf, posinf=torch.inf) / LEVELS
    return ((largest.view(torch.int32) + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)
