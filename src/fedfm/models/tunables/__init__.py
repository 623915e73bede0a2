"""Tunables, one method per file. To add one, write its file and add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.models.tunables.base import TuneSettings
from fedfm.models.tunables.bitfit import BitFit
from fedfm.models.tunables.full import Full
from fedfm.models.tunables.head import Head
from fedfm.models.tunables.ia3 import IA3
from fedfm.models.tunables.lora import Dora, Lora
from fedfm.models.tunables.lora_sb import LoraSb
from fedfm.models.tunables.prompt import Prefix, Prompt
from fedfm.models.tunables.ravan import Ravan
from fedfm.registry import Choice

TUNABLES: dict[str, type[TuneSettings]] = {
    "lora": Lora,
    "dora": Dora,
    "lora-sb": LoraSb,
    "ravan": Ravan,
    "ia3": IA3,
    "prompt": Prompt,
    "prefix": Prefix,
    "bitfit": BitFit,
    "head": Head,
    "full": Full,
}

Tune = Annotated[TuneSettings, Choice(TUNABLES, "kind", "fedfm.tunables")]

__all__ = [
    "IA3",
    "TUNABLES",
    "BitFit",
    "Dora",
    "Full",
    "Head",
    "Lora",
    "LoraSb",
    "Prefix",
    "Prompt",
    "Ravan",
    "Tune",
    "TuneSettings",
]
