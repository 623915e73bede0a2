"""NF4: values as the nearest of 16 quantiles of the normal distribution, times the largest magnitude of their block.

Dettmers et al., QLoRA, arXiv:2305.14314, §3 and appendix E. With the quantile function Q of the standard normal and
δ = (1/32 + 1/30)/2, the levels are the 8 values Q(p) for p from 1 − δ to 1/2 in 9 equal steps, without p = 1/2, the
7 values −Q(p) likewise in 8 equal steps, and 0; all divided by Q(1 − δ). So zero and both ends are exact.

A value is rounded to the nearest level, which is biased; `quantize` with 4 bits is not. Error feedback corrects
that. Scales are bfloat16, rounded up; the second quantisation, of the scales, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedfm.params import Params
from fedfm.spec import Spec, TensorSpec, count, spec_of
from fedfm.updates.stages.blocks import in_blocks, largest, packed, sound_scales, unpacked
from fedfm.updates.stages.feedback import ErrorFeedback
from fedfm.updates.stages.flat import flatten, prefix, split, unflatten


def _levels() -> Tensor:
    """The 16 levels, ascending from −1 to 1."""
    end = 1 - (1 / 32 + 1 / 30) / 2
    above, below = ([NormalDist().inv_cdf(float(p)) for p in np.linspace(end, 0.5, steps)[:-1]] for steps in (9, 8))
    found = sorted([*above, 0.0, *(-value for value in below)])
    return torch.tensor([value / found[-1] for value in found])


LEVELS = _levels()
"""The 16 levels, float32, ascending from −1 to 1."""

_BOUNDS = (LEVELS[1:] + LEVELS[:-1]) / 2


class NormalFloat(ErrorFeedback):
    """Send values as the nearest of 16 normal quantiles, with a scale for each block."""

    flattens: ClassVar[bool] = True

    kind: Literal["nf4"] = "nf4"
    """Send values as the nearest of 16 normal quantiles, with a scale for each block."""
    block: Annotated[int, Field(ge=8, le=1_000_000)] = 64
    """Values that share a scale: a smaller block is more accurate and costs 2 bytes more for each."""

    def spec(self, spec: Spec) -> Spec:
        """Places of levels, two in a byte, and scales ``[blocks]`` in place of floats; others are unchanged."""
        flat, others = split(spec)
        name, values = prefix(self.kind, flat), count(flat)
        return {
            f"{name}.levels": TensorSpec((-(-values // 2),), torch.uint8),
            f"{name}.scales": TensorSpec((-(-values // self.block),), torch.bfloat16),
            **others,
        }

    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """Places of the nearest levels, and scales."""
        flat, others = split(spec_of(params))
        values, name = flatten(params, flat), prefix(self.kind, flat)
        blocks = in_blocks(values, self.block)
        scales = largest(blocks)
        relative = (blocks / scales.float()[:, None]).nan_to_num(0, 0, 0)  # a scale that is 0 or not finite
        nearest = torch.bucketize(relative.view(-1)[: len(values)], _BOUNDS)
        sent = {f"{name}.levels": packed(nearest), f"{name}.scales": scales}
        return {**sent, **{name: params[name] for name in others}}, {}

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Levels times their block's scale.

        Raises:
            ValueError: a scale is negative or not finite.
        """
        flat, others = split(spec)
        name, values = prefix(self.kind, flat), count(flat)
        levels = LEVELS[unpacked(params[f"{name}.levels"], values).long()]
        scales = sound_scales(params[f"{name}.scales"]).repeat_interleave(self.block)[:values]
        return {**unflatten(levels * scales, flat), **{name: params[name] for name in others}}
