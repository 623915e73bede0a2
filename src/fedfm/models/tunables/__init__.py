"""Tunables, one method per file. To add one, write its file and add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.models.tunables.attention_adapter import AttentionAdapter
from fedfm.models.tunables.base import TuneSettings
from fedfm.models.tunables.bitfit import BitFit
from fedfm.models.tunables.c3a import C3A
from fedfm.models.tunables.dual_lora import DualLora
from fedfm.models.tunables.fourierft import FourierFT
from fedfm.models.tunables.full import Full
from fedfm.models.tunables.head import Head
from fedfm.models.tunables.ia3 import IA3
from fedfm.models.tunables.layers import WholeLayers
from fedfm.models.tunables.lora import Dora, Lora
from fedfm.models.tunables.lora_sb import LoraSb
from fedfm.models.tunables.mask import Mask
from fedfm.models.tunables.miss import Miss
from fedfm.models.tunables.norms import Norms
from fedfm.models.tunables.p_tuning import PTuning
from fedfm.models.tunables.prompt import Prefix, Prompt
from fedfm.models.tunables.ravan import Ravan
from fedfm.models.tunables.shira import Shira
from fedfm.models.tunables.tinylora import TinyLora
from fedfm.models.tunables.vera import Vera
from fedfm.models.tunables.waveft import WaveFT
from fedfm.registry import Choice

TUNABLES: dict[str, type[TuneSettings]] = {
    "lora": Lora,
    "dora": Dora,
    "lora-sb": LoraSb,
    "ravan": Ravan,
    "dual-lora": DualLora,
    "vera": Vera,
    "ia3": IA3,
    "fourierft": FourierFT,
    "waveft": WaveFT,
    "tinylora": TinyLora,
    "miss": Miss,
    "shira": Shira,
    "c3a": C3A,
    "mask": Mask,
    "prompt": Prompt,
    "p-tuning": PTuning,
    "prefix": Prefix,
    "attention-adapter": AttentionAdapter,
    "bitfit": BitFit,
    "norms": Norms,
    "layers": WholeLayers,
    "head": Head,
    "full": Full,
}

Tune = Annotated[TuneSettings, Choice(TUNABLES, "kind", "fedfm.tunables")]

__all__ = [
    "C3A",
    "IA3",
    "TUNABLES",
    "AttentionAdapter",
    "BitFit",
    "Dora",
    "DualLora",
    "FourierFT",
    "Full",
    "Head",
    "Lora",
    "LoraSb",
    "Mask",
    "Miss",
    "Norms",
    "PTuning",
    "Prefix",
    "Prompt",
    "Ravan",
    "Shira",
    "TinyLora",
    "Tune",
    "TuneSettings",
    "Vera",
    "WaveFT",
    "WholeLayers",
]
