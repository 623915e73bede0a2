"""Sums that float32 is too coarse for."""

from __future__ import annotations

from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The values in float64, detached: where they are, or on the CPU if they are on mps, which has no float64."""
    values = tensor.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()
