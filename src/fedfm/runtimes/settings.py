"""Where clients execute."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings


class RuntimeSettings(Settings):
    """The recipe's ``runtime``."""

    kind: Literal["local"] = "local"
    """Everything in this process."""
    stack: Literal["auto", "off"] = "auto"
    """Clients trained in one pass; this version trains them one by one."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """`auto` takes a GPU when there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    precision: Literal["auto", "float32"] = "auto"
    """Arithmetic of local training; this version computes in float32."""
