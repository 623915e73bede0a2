"""Sign: one bit a value, and the mean magnitude of each tensor or block.

Karimireddy et al., Error Feedback Fixes SignSGD and Other Gradient Compression Schemes, arXiv:1901.09847, Algorithm 1
(EF-SignSGD), with the scale of the paper for each tensor x of d values, or for each block of one:

    C(x) = (‖x‖₁ / d)·sign(x),   where sign(0) = 1

C is biased, and without error feedback values that are small beside the others of their tensor never count as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.params import Params
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.blocks import sound_scales
from fedfm.updates.stages.feedback import ErrorFeedback
from fedfm.updates.stages.flat import flatten, prefix, split, unflatten


class Sign(ErrorFeedback):
    """Send the sign of each value, and the mean magnitude of each tensor or block."""

    flattens: ClassVar[bool] = True

    kind: Literal["sign"] = "sign"
    """Send the sign of each value, and the mean magnitude of each tensor or block."""
    direction: Literal["up"] = "up"
    """Updates to the server only: parameters are more than their signs."""
    block: Annotated[int, Field(ge=8, le=1_000_000)] | None = None
    """Values of a tensor that share a scale of 4 bytes; null: all of them."""

    def spec(self, spec: Spec) -> Spec:
        """Bits, eight in a byte, and scales in place of floating-point tensors; others are unchanged."""
        flat, others = split(spec)
        name = prefix(self.kind, flat)
        return {
            f"{name}.signs": TensorSpec((-(-count(flat) // 8),), torch.uint8),
            f"{name}.scales": TensorSpec((sum(1 for _ in self._blocks(flat)),)),
            **others,
        }

    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """Signs and scales."""
        flat, others = split(spec_of(params))
        values, name = flatten(params, flat).float(), prefix(self.kind, flat)
        means = [part.abs().mean() for part in torch.split(values, list(self._blocks(flat)))]
        sent = {
            f"{name}.signs": torch.from_numpy(np.packbits((values >= 0).numpy())),
            f"{name}.scales": torch.stack(means) if means else torch.empty(0),
        }
        return {**sent, **{name: params[name] for name in others}}, {}

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Plus or minus the scale of the tensor or block.

        Raises:
            ValueError: a scale is negative or not finite.
        """
        flat, others = split(spec)
        name, sizes = prefix(self.kind, flat), list(self._blocks(flat))
        bits = torch.from_numpy(np.unpackbits(params[f"{name}.signs"].numpy(), count=count(flat)))
        scales = sound_scales(params[f"{name}.scales"]).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        return {**unflatten(scales.where(bits.bool(), -scales), flat), **{name: params[name] for name in others}}

    def _blocks(self, flat: Spec) -> Iterator[int]:
        """The numbers of values that share a scale, in order."""
        for tensor in flat.values():
            block = self.block or max(1, tensor.numel)
            yield from (min(block, tensor.numel - start) for start in range(0, tensor.numel, block))
