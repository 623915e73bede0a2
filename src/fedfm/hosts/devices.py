"""The device that a run computes on."""

from __future__ import annotations

import torch

from fedfm.errors import RecipeError
from fedfm.records.environment import cpu_count


def choose_device(wanted: str) -> torch.device:
    """The device that ``runtime.device`` means on this machine.

    It also limits torch to as many threads as this process has processors. Torch's default is one thread for each core
    of the machine, also in a container that may use fewer.

    Raises:
        RecipeError: the recipe names a device that this machine does not have.
    """
    torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
    )  # fmt: skip
    if missing:
        raise RecipeError(f"this machine has no `{wanted}`; set it to `auto`", where="runtime.device")
    return device


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are known to be faster than in float32: on CPUs that have instructions for them.

    Other CPUs emulate them, which is slower; GPUs were not measured.
    """
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))
