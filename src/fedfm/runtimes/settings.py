"""Where clients execute."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings


class RuntimeSettings(Settings):
    """The recipe's ``runtime``."""

    kind: Literal["local"] = "local"
    """Everything in this process."""
    stack: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = "auto"
    """Clients trained in one pass, which gives each what it gets alone, to rounding. `auto` takes as many as fit and
    writes down their number; `off` trains one by one in a plain loop."""
    processes: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes of this machine that train clients, with one thread each and one backbone between them (Linux, on
    CPUs). `auto` takes one a core for runs that are worth it."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """`auto` takes a GPU when there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the frozen blocks in local training; the tunable, its optimiser and every evaluation stay in
    float32. `auto` is float32."""
