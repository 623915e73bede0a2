"""Conversion to float64 for sums that need it."""

from __future__ import annotations

from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The values in float64, detached, on their device; on the CPU for mps, which has no float64."""
    values = tensor.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()
