"""Which device a run computes on."""

from __future__ import annotations

import torch

from fedfm.errors import RecipeError
from fedfm.records.environment import cpu_count


def choose_device(wanted: str) -> torch.device:
    """The device that ``runtime.device`` means on this machine.

    From then on torch takes no more threads than this process has processors: by itself it takes one a core of the
    machine, however few of them a container may use.

    Raises:
        RecipeError: a device that is not there was asked for by name.
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
        raise RecipeError(f"there is no `{wanted}` on this machine; `auto` takes what is there", where="runtime.device")
    return device


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are known to be faster there than in float32: on CPUs with instructions for them.

    Other CPUs emulate them, at a loss; GPUs were not measured.
    """
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))
