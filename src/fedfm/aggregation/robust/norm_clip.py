"""Zeroing and clipping by norms: a cheap first defence.

The order of TensorFlow Federated's `robust_aggregator`: updates whose norm is absurd are dropped, the others are
clipped, the mean is taken. There, both limits follow quantiles of the norms that are estimated from round to round;
here they are exact and of the round itself. Sun et al., Can You Really Backdoor Federated Learning?, arXiv:1911.07963,
§4, is why clipping alone stops a scaled update. With q the quantile of the norms ‖x_i‖:

    Δ = mean of min(1, q/‖x_i‖)·x_i  over the i with ‖x_i‖ ≤ zero·q
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedfm.aggregation.robust.base import Compared, ComparingRule
from fedfm.aggregation.robust.mixing import shrink


class NormClip(ComparingRule):
    """The mean of updates that are clipped to a quantile of their norms, without those that are absurdly long."""

    rule: Literal["norm-clip"] = "norm-clip"
    """The mean of updates clipped to a quantile of the round's norms, without those that are absurdly long."""
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the norms of the round: longer updates are clipped to it. With fewer than half attackers, 0.5 is a norm that
    honest updates reach."""
    zero: Annotated[float, Field(ge=1)] | None = 10.0
    """Updates longer than so many times the quantile are left out; null: none is."""

    def weights(self, compared: Compared) -> Tensor:
        """min(1, q/‖x_i‖) over the number of updates that are kept, 0 for those that are not."""
        norms = compared.products.diagonal().clamp(min=0).sqrt()
        limit = norms.quantile(self.quantile, interpolation="lower")
        kept = norms <= (torch.inf if self.zero is None else self.zero * limit)
        return shrink(norms, limit) * kept / kept.sum()
