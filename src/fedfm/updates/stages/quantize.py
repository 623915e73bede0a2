"""Block quantisation: values as 8- or 4-bit integers with a scale a block, rounded at random so that the mean is exact.

Alistarh et al., QSGD, arXiv:1610.02132 (stochastic rounding); Dettmers et al., 8-bit Optimizers via Block-wise
Quantization, arXiv:2110.02861 (blocks). For b bits and a block x with scale s ≥ max|x| / (2^(b−1) − 1):

    q = ⌊x/s⌋ + (1 with probability x/s − ⌊x/s⌋),   so that E[q·s] = x

Scales are bfloat16, rounded up: they have the range of float32, and one byte in 64 of the values' is spent on them with
`block: 128`. Two 4-bit integers are in a byte. A group travels as one flat tensor with the digest of its spec in place
of names.
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
from fedfm.updates.stages.base import Stage
from fedfm.updates.stages.blocks import in_blocks, largest, packed, sound_scales, unpacked
from fedfm.updates.stages.flat import flatten, prefix, split, unflatten


class Quantize(Stage):
    """Send values as 8- or 4-bit integers, with a scale for each block."""

    flattens: ClassVar[bool] = True

    kind: Literal["quantize"] = "quantize"
    """Send values as 8- or 4-bit integers, with a scale for each block."""
    bits: Literal[8, 4] = 8
    """Bits a value; the rounding error of 4 bits is 18 times as large."""
    block: Annotated[int, Field(ge=8, le=1_000_000)] = 128
    """Values that share a scale: a smaller block is more accurate and costs 2 bytes more for each."""

    @property
    def levels(self) -> int:
        """The largest integer, both ways."""
        return 127 if self.bits == 8 else 7

    def spec(self, spec: Spec) -> Spec:
        """Integers ``[values]``, or ``[⌈values / 2⌉]`` of two each, and scales ``[blocks]`` in place of floats."""
        flat, others = split(spec)
        name, values = prefix(self.kind, flat), count(flat)
        integers = TensorSpec((values,), torch.int8)
        return {
            f"{name}.values": integers if self.bits == 8 else TensorSpec((-(-values // 2),), torch.uint8),
            f"{name}.scales": TensorSpec((-(-values // self.block),), torch.bfloat16),
            **others,
        }

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """Integers and scales."""
        flat, others = split(spec_of(params))
        values = flatten(params, flat)
        blocks = in_blocks(values, self.block)
        scales = largest(blocks, self.levels)
        steps = (blocks / scales.float()[:, None]).nan_to_num(0, 0, 0)  # a scale that is 0 or not finite
        down = steps.floor()
        up = torch.from_numpy(generator.random(down.shape, dtype=np.float32)) < steps - down
        integers = (down + up).clamp(-self.levels, self.levels).to(torch.int8).view(-1)[: len(values)]
        name = prefix(self.kind, flat)
        sent = {
            f"{name}.values": integers if self.bits == 8 else packed(integers + 8),
            f"{name}.scales": scales,
        }
        return {**sent, **{name: params[name] for name in others}}, own

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Integers times their block's scale.

        Raises:
            ValueError: a scale is negative or not finite.
        """
        flat, others = split(spec)
        name, values = prefix(self.kind, flat), count(flat)
        sent, scales = params[f"{name}.values"], sound_scales(params[f"{name}.scales"])
        integers = sent if self.bits == 8 else unpacked(sent, values).to(torch.int8) - 8
        found = integers.float() * scales.repeat_interleave(self.block)[:values]
        return {**unflatten(found, flat), **{name: params[name] for name in others}}
