"""Top-k: only the values of largest magnitude are sent; error feedback adds what was left out to the next update.

Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, arXiv:1809.07599, Algorithm 1, with error feedback. k is
a share of all values of the group, taken over its tensors together. Among equal magnitudes the lower index is sent.
With `share: 1.0` the update arrives bit for bit.
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
from fedfm.updates.stages.feedback import ErrorFeedback
from fedfm.updates.stages.flat import dtype_of, flatten, prefix, split, unflatten


class TopK(ErrorFeedback):
    """Send only the values of largest magnitude, with their positions."""

    flattens: ClassVar[bool] = True
    reads_names: ClassVar[bool] = True

    kind: Literal["top-k"] = "top-k"
    """Send only the values of largest magnitude, with their positions."""
    direction: Literal["up"] = "up"
    """Updates to the server only: parameters are not sparse."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of all values that is sent; at least one value is."""

    def spec(self, spec: Spec) -> Spec:
        """Values ``[k]`` and positions ``[k]`` in place of the floating-point tensors; others are unchanged."""
        flat, others = split(spec)
        name, (k, index) = prefix(self.kind, flat), self._size(flat)
        return {
            f"{name}.values": TensorSpec((k,), dtype_of(flat)),
            f"{name}.indices": TensorSpec((k,), index),
            **others,
        }

    def compress(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The largest values and their positions."""
        flat, others = split(spec_of(params))
        values, (k, index) = flatten(params, flat), self._size(flat)
        chosen = _largest(values, k)
        name = prefix(self.kind, flat)
        sent = {f"{name}.values": values[chosen], f"{name}.indices": chosen.to(index)}
        return {**sent, **{name: params[name] for name in others}}, {}

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """Zeros, with the values that were sent in their positions.

        Raises:
            ValueError: positions are outside the tensors or not in ascending order.
        """
        flat, others = split(spec)
        name = prefix(self.kind, flat)
        values, indices = params[f"{name}.values"], params[f"{name}.indices"].long()
        if len(indices) and not (indices[0] >= 0 and indices[-1] < count(flat) and (indices.diff() > 0).all()):
            raise ValueError(f"the positions of top-k are not in ascending order from 0 to {count(flat) - 1:,}")
        whole = torch.zeros(count(flat), dtype=values.dtype)
        whole[indices] = values
        return {**unflatten(whole, flat), **{name: params[name] for name in others}}

    def _size(self, flat: Spec) -> tuple[int, torch.dtype]:
        """How many values are sent, and the dtype of their positions."""
        values = count(flat)
        k = min(values, max(1, round(self.share * values)))
        return k, torch.int32 if values <= 2**31 else torch.int64


def _largest(values: Tensor, k: int) -> Tensor:
    """Ascending int64 positions of the k values of largest magnitude; what is not a number counts as largest."""
    if k == len(values):
        return torch.arange(k)
    magnitudes = values.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    threshold = magnitudes.topk(k, sorted=True).values[-1]
    above = (magnitudes > threshold).nonzero().squeeze(1)
    level = (magnitudes == threshold).nonzero().squeeze(1)
    return torch.cat([above, level[: k - len(above)]]).sort().values
