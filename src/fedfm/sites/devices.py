"""Which device a run computes on."""

from __future__ import annotations

import torch

from fedfm.errors import RecipeError


def choose_device(wanted: str) -> torch.device:
    """The device that ``runtime.device`` means on this machine.

    Raises:
        RecipeError: a device that is not there was asked for by name.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
    )  # fmt: skip
    if missing:
        raise RecipeError(f"there is no `{wanted}` on this machine; `auto` takes what is there", where="runtime.device")
    return device
