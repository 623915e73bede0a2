"""A backbone and its FedPFT proxy: cut by scores, fitted in closed form and by distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.models.tunable import Tunable
from fedfm.proxies.base import Attach, ClientCopy, ClientModel
from fedfm.proxies.fedpft.closed_form import FITTING_BATCHES, refit_outputs, residuals
from fedfm.proxies.fedpft.construct import (
    choose,
    compressed_blocks,
    counts,
    head_parameters,
    kept_blocks,
    make_proxy,
    own_parameters,
)
from fedfm.proxies.fedpft.model import FedPFTModel
from fedfm.proxies.fedpft.scores import Scoring, scores
from fedfm.proxies.fedpft.settings import WEIGHTS_ALONE, FedPFT
from fedfm.proxies.fedpft.versions import NeuronCopy
from fedfm.proxies.ffn import Kept
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.pair import FitReport, ProxyPair, sharing_copy
from fedfm.proxies.settings import ProxySettings
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData


@dataclass(frozen=True, kw_only=True)
class FedPFTPair(ProxyPair):
    """A backbone and its proxy with fewer neurons.

    Attributes:
        settings: that the proxy was cut by.
        neurons: that stay, by the path of each compressed block.
    """

    settings: FedPFT
    neurons: Kept

    @classmethod
    def cut(
        cls, settings: FedPFT, backbone: Backbone, public: PublicData | None, *, seed: int, kept: Kept | None = None
    ) -> Self:
        """Keeps the neurons with the highest scores, or those named; arguments as of `ProxySettings.cut`."""
        if kept is None:
            compressed = compressed_blocks(backbone, settings.keep_layers)
            widths = counts(settings, compressed)
            needs_data = settings.score not in WEIGHTS_ALONE
            batches = public.fixed(16, FITTING_BATCHES, seed=seed, purpose="scores") if public and needs_data else []
            kept = choose(scores(settings.score, Scoring(backbone, compressed, widths, batches, seed)), widths)
        return cls(backbone, make_proxy(backbone, kept, settings.bits), settings=settings, neurons=kept)

    @property
    def made_by(self) -> FedPFT:
        """The settings that the proxy was cut by."""
        return self.settings

    @property
    def kept(self) -> Kept:
        """Neurons that stay."""
        return self.neurons

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The FFNs of compressed blocks, and the norms that follow them."""
        return own_parameters(self.proxy, self.neurons)

    @property
    def compressed(self) -> list[Block]:
        """The proxy's blocks with fewer neurons."""
        return kept_blocks(self.proxy, self.neurons)

    @property
    def compared(self) -> Pairs:
        """Each compressed block and its original."""
        whole = {block.path: block for block in blocks(self.backbone.model, self.backbone.family)}
        return [(whole[block.path], block) for block in self.compressed]

    def copy(self) -> Self:
        """The backbone and another proxy, with its own `own` and head."""
        apart = [*self.own.values(), *head_parameters(self.proxy)]
        return replace(self, proxy=replace(self.proxy, model=sharing_copy(self.proxy.model, apart)))

    def client_copy(self) -> ClientCopy:
        """A copy whose neurons change with alignments."""
        return NeuronCopy(self.proxy, dict(self.own), blocks=self.compressed, packed=self.packed_own)

    def at_server(
        self, settings: ProxySettings, attach: Attach, public: PublicData | None, *, seed: int
    ) -> ClientModel:
        """The server's side, which realigns the proxy as ``settings`` say."""
        if not isinstance(settings, FedPFT):
            raise TypeError(f"a FedPFT proxy cannot be used with settings of kind {settings.kind}")
        return FedPFTModel(self, settings, attach, public, seed=seed)

    def fit(self, teacher: Tunable, student: Tunable, public: PublicData, *, seed: int, report: FitReport) -> None:
        """First in closed form, then by distillation."""
        settings = self.settings
        if settings.closed_form:
            batches: Sequence[Batch] = public.fixed(16, FITTING_BATCHES, seed=seed, purpose="closed form")
            layers = blocks(self.proxy.model, self.proxy.family)
            rounded = settings.bits is not None
            self.round_own()  # of which the input matrices stay so, and the regression makes up for it
            refits = refit_outputs(
                student.model, layers, self.compared, self.neurons, batches, settings.ridge, rounded=rounded
            )
            report("closed-form", residuals(refits))
        if settings.distill is not None:
            self.distill(teacher, student, public, settings.distill, seed=seed, report=report)
