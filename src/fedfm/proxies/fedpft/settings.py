"""FedPFT's settings: the recipe's ``proxy`` of kind ``fedpft``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self, cast

from pydantic import Field, model_validator

from fedfm.capabilities import BACKBONE_WEIGHTS, CLIENT_FIGURES, INDIVIDUAL_FIGURES
from fedfm.data.settings import PublicSettings
from fedfm.proxies.settings import Bits, DistillSettings, PlugInSettings, ProxySettings, Share
from fedfm.settings import Capabilities, Settings

if TYPE_CHECKING:
    from fedfm.models.backbones import Backbone
    from fedfm.models.tunables import Tune
    from fedfm.proxies.base import ClientCopy
    from fedfm.proxies.fedpft.pair import FedPFTPair
    from fedfm.proxies.ffn import Kept
    from fedfm.tasks.public import PublicData

NeuronScore = Literal["concat-l2", "product", "activation", "gradient", "reconstruct", "random"]
"""How neurons are ranked when the proxy is cut; see `fedfm.proxies.fedpft.scores`."""

WEIGHTS_ALONE: Final[tuple[NeuronScore, ...]] = ("concat-l2", "product", "random")
"""Scores that need no public data."""

UsageScore = Literal["auto", "apoz", "soft-apoz", "contribution"]
"""How little a neuron is used, for alignment; see `fedfm.proxies.fedpft.activity`."""


class Alignment(Settings):
    """How a proxy is realigned while clients tune it (arXiv:2404.11536, neuron-level alignment)."""

    closed_form: bool = False
    """Refit each compressed FFN's output matrix by ridge regression, and only these matrices travel; false: by steps,
    as in the paper, with the keys below `ridge`."""
    ridge: Annotated[float, Field(gt=0)] = 0.3
    """Pull of that regression towards the present weights, as a share of the mean squared activation."""
    share: Share = 0.5
    """Share of the neurons of a compressed FFN that are refitted, those used least."""
    score: UsageScore = "auto"
    """How use is measured: `apoz`, the share of exact zeros, tells neurons apart only under ReLU;
    `soft-apoz` counts values near zero; `contribution` is E|a|·‖w₂‖; `auto` is apoz for ReLU, else contribution."""
    data: Literal["public", "clients"] = "public"
    """What it is measured on; `clients` sends counts of their activations to the server."""
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 50
    """Optimiser steps of one alignment."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    """Public examples a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Peak learning rate of AdamW; it rises over the warm-up, then falls linearly to zero."""
    predictions: Annotated[float, Field(ge=0)] = 0.0
    """Weight γ of the divergence of predictions in the loss; 0: hidden states alone, as in the paper."""

    @model_validator(mode="after")
    def _refuse_keys_of_the_other_way(self) -> Self:
        fields = type(self).model_fields
        changed = [name for name, field in fields.items() if getattr(self, name) != field.default]
        others = [name for name in changed if name not in ("closed_form", "ridge")]
        if self.closed_form and others:
            raise ValueError(f"{others[0]} is of alignment by steps: set closed_form to false, or leave it out")
        if not self.closed_form and "ridge" in changed:
            raise ValueError("ridge is of the regression: set closed_form to true, or leave it out")
        return self

    @property
    def chooses(self) -> bool:
        """Whether only some neurons are refitted, by their use."""
        return not self.closed_form and self.share < 1


class FedPFT(ProxySettings):
    """A proxy with every layer and, in most of them, only some FFN neurons (FedPFT, arXiv:2404.11536)."""

    title: ClassVar[str] = "FedPFT"
    takes: ClassVar[Mapping[str, str]] = {BACKBONE_WEIGHTS: "clients hold a proxy"}

    kind: Literal["fedpft"] = "fedpft"
    """Every layer stays; most FFN neurons are cut."""
    path: str | None = None
    """A proxy's folder, as `fedfm proxy build` writes it: taken as it is, with the settings it was made by."""
    ffn_keep: Share | list[Share] = 0.25
    """Share of its neurons that a compressed FFN keeps; a list names one for each compressed layer."""
    keep_layers: list[int] = [0, -1]
    """Layers that stay whole, from 0; -1 is the last."""
    score: NeuronScore | None = None
    """Which neurons stay: by the norm of all weights at them (`concat-l2`, the paper) or the product of the norms of
    their vectors (`product`); on public data by E|a|·‖w₂‖ (`activation`), by Σ (a·∂ℓ/∂a)² over several random read-outs
    (`gradient`), or greedily those from which regression restores the FFN's output best (`reconstruct`); `random`.
    null: `reconstruct`, or `concat-l2` where the recipe names no public data."""
    align_to: Annotated[int, Field(ge=1)] = 1
    """Round the number of neurons kept to a multiple of this, such as 64, for faster kernels."""
    closed_form: bool = True
    """Refit each compressed FFN's output matrix by ridge regression on public data, layer by layer."""
    ridge: Annotated[float, Field(gt=0)] = 0.01
    """Pull of that regression towards the backbone's weights, as a share of the mean squared activation."""
    bits: Bits | None = None
    """In how many bits the proxy is sent, and thus its first download and alignments; null: as it is. Attention,
    embeddings and whole layers are rounded before the proxy is fitted, and what fitting changes, after it."""
    distill: DistillSettings | None = None
    """Layer-level distillation before round 1, as in the paper, which takes minutes; null: none."""
    interval: Annotated[int, Field(ge=1)] | None = 10
    """Rounds between alignments; null: none."""
    align: Alignment | None = None
    """Neuron-level alignment during training; null: by regression in closed form, with `reproduce` by steps."""
    stale: Literal["refuse", "accept"] = "refuse"
    """Whether an update that was trained on an older version of the proxy is refused or accepted."""
    plug_in: PlugInSettings = PlugInSettings()
    """What happens to the tunable once training is over and it is plugged into the backbone."""
    probe: Annotated[int, Field(ge=0)] = 8
    """Public examples on which proxy and backbone are compared, gradient by gradient, after each stage; 0: never."""
    reproduce: bool = False
    """Align as the released code does: by steps, of neurons that `align.score: apoz` chooses, by exact zeros, with
    `align.data: clients`. Where many neurons have the same score, chance chooses among them."""

    @model_validator(mode="after")
    def _refuse_another_alignment(self) -> Self:
        if self.reproduce and self.align is not None:
            if self.align.closed_form:
                raise ValueError("reproduce means alignment by steps, not align.closed_form; leave one of the two out")
            if self.align.score not in ("auto", "apoz"):
                raise ValueError(f"reproduce means align.score: apoz, not {self.align.score}; leave one of the two out")
        return self

    @property
    def alignment(self) -> Alignment:
        """``align`` or what its absence means, with what ``reproduce`` changes."""
        align = self.align or Alignment(closed_form=not self.reproduce)
        return align.model_copy(update={"score": "apoz", "data": "clients"}) if self.reproduce else align

    def capabilities(self) -> Capabilities:
        """Also what an alignment by the clients' counts relies on."""
        said = super().capabilities()
        if not self.counts_at_clients:
            return said
        needs = {
            CLIENT_FIGURES: "clients count their neurons' use, which decides the proxy; use proxy.align.data=public",
            INDIVIDUAL_FIGURES: "each client sends counts of how much its neurons are used",
        }
        return Capabilities({**said.needs, **needs}, said.gives, said.takes)

    @property
    def counts_at_clients(self) -> bool:
        """Whether clients count how much neurons are used."""
        return self.interval is not None and self.alignment.data == "clients" and self.alignment.chooses

    @property
    def accepts_stale(self) -> bool:
        """Whether ``stale`` is ``accept``."""
        return self.stale == "accept"

    @property
    def public_use(self) -> str | None:
        """The first key that needs public data; None where no key does."""
        needs = {
            "score": self.path is None and self.score is not None and self.score not in WEIGHTS_ALONE,
            "closed_form": self.path is None and self.closed_form,
            "distill": self.path is None and self.distill is not None,
            "interval": self.interval is not None,
            "plug_in": self.plug_in.needs_public,
        }
        return next((key for key, needed in needs.items() if needed), None)

    @property
    def plug_in_public(self) -> PublicSettings | None:
        """``plug_in.public``."""
        return self.plug_in.public

    @property
    def wire_bits(self) -> Bits:
        """``bits``."""
        return self.bits or Bits()

    def refuses(self, tune: Tune) -> str | None:
        """Refuses what is tuned on every neuron and, with alignment, virtual tokens."""
        if tune.needs_all_neurons:
            return f"`{tune.kind}` targets neurons that the proxy cuts; use lora (attention, ffn or all) or head"
        if tune.virtual_tokens and self.interval is not None:
            return (
                f"`{tune.kind}` is not seen by alignment, which runs both models without virtual tokens; set "
                "proxy.interval=null, or use lora"
            )
        return None

    @classmethod
    def sized(cls, ffn_keep: float, keep_layers: list[int], score: str | None, adapters: int) -> Self | None:
        """The settings themselves."""
        return cls(ffn_keep=ffn_keep, keep_layers=keep_layers, score=cast(NeuronScore | None, score))

    def cut(self, backbone: Backbone, public: PublicData | None, *, seed: int, kept: Kept | None = None) -> FedPFTPair:
        """Scores the neurons of compressed FFNs and keeps the best."""
        from fedfm.proxies.fedpft.pair import FedPFTPair

        return FedPFTPair.cut(self, backbone, public, seed=seed, kept=kept)

    def client_copy(self, proxy: Backbone, kept: Kept, version: int) -> ClientCopy:
        """A copy whose neurons change with alignments."""
        from fedfm.proxies.fedpft.versions import NeuronCopy

        return NeuronCopy.of(proxy, kept, version, self.wire_bits)
