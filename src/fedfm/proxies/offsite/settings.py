"""Settings of offsite tuning: the recipe's ``proxy`` of kind ``offsite``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from fedfm.capabilities import BACKBONE_WEIGHTS
from fedfm.data.settings import PublicSettings
from fedfm.proxies.settings import Bits, DistillSettings, PlugInSettings, ProxySettings, Share

if TYPE_CHECKING:
    from fedfm.models.backbones import Backbone
    from fedfm.models.tunables import Tune
    from fedfm.proxies.ffn import Kept
    from fedfm.proxies.offsite.pair import OffsitePair
    from fedfm.tasks.public import PublicData


class Offsite(ProxySettings):
    """A proxy with only some of the layers (offsite tuning, arXiv:2302.04870, in a federation: FedOT).

    The first and last layers are tuned; an emulator of evenly spaced layers stands for those between.
    """

    title: ClassVar[str] = "offsite tuning"
    takes: ClassVar[Mapping[str, str]] = {BACKBONE_WEIGHTS: "clients hold a proxy"}

    kind: Literal["offsite"] = "offsite"
    """Few layers stay, whole; those at the ends are tuned."""
    path: str | None = None
    """A proxy's folder, as `fedfm proxy build` writes it: taken as it is, with the settings it was made by."""
    layers: Annotated[int, Field(ge=2)] | None = None
    """Layers to keep; null: as many as come closest in parameters to FedPFT with `ffn_keep` and `keep_layers`."""
    adapters: Annotated[int, Field(ge=1)] = 2
    """Layers at each end that are tuned."""
    ffn_keep: Share = 0.25
    """The FedPFT proxy to match in size."""
    keep_layers: list[int] = [0, -1]
    """The FedPFT proxy to match in size."""
    bits: Bits | None = None
    """In how many bits the proxy is sent; null: as it is. The emulator is rounded after it is fitted, all else
    before."""
    distill: DistillSettings | None = DistillSettings()
    """Fitting the emulator's output to the backbone's before round 1; null: none."""
    plug_in: PlugInSettings = PlugInSettings()
    """What happens to the tunable once training is over and it is plugged into the backbone."""
    probe: Annotated[int, Field(ge=0)] = 8
    """Public examples on which proxy and backbone are compared, gradient by gradient, after each stage; 0: never."""

    @property
    def public_use(self) -> str | None:
        """``distill``, where the emulator is fitted; ``plug_in``, where the plugged backbone is."""
        if self.path is None and self.distill is not None:
            return "distill"
        return "plug_in" if self.plug_in.needs_public else None

    @property
    def plug_in_public(self) -> PublicSettings | None:
        """``plug_in.public``."""
        return self.plug_in.public

    @property
    def wire_bits(self) -> Bits:
        """``bits``."""
        return self.bits or Bits()

    def refuses(self, tune: Tune) -> str | None:
        """Refuses what is tuned in every layer."""
        if tune.needs_all_layers:
            return f"`{tune.kind}` has values for every layer, but the proxy has only some; use lora or prompt"
        return None

    @classmethod
    def sized(cls, ffn_keep: float, keep_layers: list[int], score: str | None, adapters: int) -> Self | None:
        """As many layers as come closest in parameters."""
        return cls(adapters=adapters, ffn_keep=ffn_keep, keep_layers=keep_layers)

    def cut(self, backbone: Backbone, public: PublicData | None, *, seed: int, kept: Kept | None = None) -> OffsitePair:
        """Keeps the layers at the ends and evenly spaced ones between."""
        from fedfm.proxies.offsite.pair import OffsitePair

        return OffsitePair.cut(self, backbone)
