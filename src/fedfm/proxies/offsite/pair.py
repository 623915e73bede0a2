"""A backbone and its offsite proxy: whole layers; the emulator among them is fitted by distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from fedfm.models.backbones import Backbone
from fedfm.models.tunable import Tunable
from fedfm.proxies.base import Attach, ClientModel
from fedfm.proxies.fitting import FitStage
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.offsite.layers import (
    Layers,
    choose_layers,
    emulator_pair,
    emulator_parameters,
    make_offsite,
    with_adapters,
)
from fedfm.proxies.offsite.settings import Offsite
from fedfm.proxies.pair import ProxyPair, sharing_copy
from fedfm.proxies.proxy_model import ProxyModel
from fedfm.proxies.settings import ProxySettings
from fedfm.tasks.public import PublicData


@dataclass(frozen=True, kw_only=True)
class OffsitePair(ProxyPair):
    """A backbone, restricted to the layers at its ends, and its proxy with fewer layers.

    Attributes:
        settings: that the proxy was cut by.
        chosen: layers of the backbone that the proxy has.
    """

    settings: Offsite
    chosen: Layers

    @classmethod
    def cut(cls, settings: Offsite, backbone: Backbone) -> Self:
        """Keeps layers as the settings say."""
        layers = choose_layers(backbone, settings)
        return cls(
            with_adapters(backbone, layers),
            make_offsite(backbone, layers, settings.bits),
            settings=settings,
            chosen=layers,
        )

    @property
    def made_by(self) -> Offsite:
        """The settings that the proxy was cut by."""
        return self.settings

    @property
    def layers(self) -> Sequence[int]:
        """Numbers in the backbone of the layers that stay."""
        return self.chosen.kept

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The emulator's parameters."""
        return emulator_parameters(self.proxy, self.chosen)

    @property
    def compared(self) -> Pairs:
        """The blocks before the last adapters."""
        return [emulator_pair(self.backbone, self.proxy, self.chosen)]

    def copy(self) -> Self:
        """The backbone and another proxy, with its own emulator."""
        model = sharing_copy(self.proxy.model, self.own.values())
        return replace(self, proxy=replace(self.proxy, model=model))

    def at_server(
        self, settings: ProxySettings, attach: Attach, public: PublicData | None, *, seed: int
    ) -> ClientModel:
        """The server's side, which does not change the proxy after round 1."""
        if not isinstance(settings, Offsite):
            raise TypeError(f"an offsite proxy cannot be used with settings of kind {settings.kind}")
        return ProxyModel(self, attach, public, probe=settings.probe, plug_in=settings.plug_in, seed=seed)

    def stages(self, teacher: Tunable, student: Tunable, public: PublicData, *, seed: int) -> list[FitStage]:
        """Distils the emulator."""
        distill = self.settings.distill
        return [] if distill is None else [self.distillation(teacher, student, public, distill, seed=seed)]
