"""A backbone and its FedPFT proxy: cut by scores, fitted in closed form and by distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from torch import nn

from fedfm.data.tensor_cache import CachedTensors, cached_tensors, has_tensors
from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.models.tunable import Tunable
from fedfm.proxies.base import Attach, ClientCopy, ClientModel
from fedfm.proxies.costs import Passes
from fedfm.proxies.fedpft.closed_form import FITTING_SIZE, FITTING_TOKENS, refit_outputs, residuals
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
from fedfm.proxies.fitting import FitStage, making_key
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.pair import ProxyPair, sharing_copy
from fedfm.proxies.settings import ProxySettings
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData

NEURONS = "neurons"
"""The stage of cutting in which neurons are chosen."""


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
        found: dict[str, bool] = {}
        if kept is None:
            kept, found = _choose(settings, backbone, compressed_blocks(backbone, settings.keep_layers), public, seed)
        return cls(backbone, make_proxy(backbone, kept, settings.bits), settings=settings, neurons=kept, found=found)

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

    def stages(self, teacher: Tunable, student: Tunable, public: PublicData, *, seed: int) -> list[FitStage]:
        """First in closed form, then by distillation."""
        settings = self.settings
        found = [self._closed_form(student, public, seed)] if settings.closed_form else []
        if settings.distill is not None:
            found.append(self.distillation(teacher, student, public, settings.distill, seed=seed))
        return found

    def _closed_form(self, student: Tunable, public: PublicData, seed: int) -> FitStage:
        def fit() -> dict[str, float]:
            batches = public.enough(FITTING_TOKENS, FITTING_SIZE, seed=seed, purpose="closed form")
            layers = blocks(self.proxy.model, self.proxy.family)
            ridge = self.settings.ridge
            self.round_own()  # of which the input matrices stay so, and the regression makes up for it
            return residuals(
                refit_outputs(student.model, layers, self.compared, self.neurons, batches, ridge, rounded=rounded)
            )

        rounded = self.settings.bits is not None
        examples = public.passes_for(FITTING_TOKENS)
        return FitStage(
            "closed-form", {"ridge": self.settings.ridge, "tokens": FITTING_TOKENS}, fit, Passes(examples, examples)
        )


def _choose(
    settings: FedPFT, backbone: Backbone, compressed: list[Block], public: PublicData | None, seed: int
) -> tuple[Kept, dict[str, bool]]:
    """The neurons with the highest scores; and whether the cache had them, where scores read public data."""
    widths = counts(settings, compressed)
    kind = settings.score or ("concat-l2" if public is None else "reconstruct")

    def score(batches: Sequence[Batch]) -> Kept:
        return choose(scores(kind, Scoring(backbone, compressed, widths, batches, seed)), widths)

    if public is None or kind in WEIGHTS_ALONE:
        return score([]), {}
    batches = partial(public.enough, FITTING_TOKENS, FITTING_SIZE, seed=seed, purpose="scores")
    key = making_key(backbone, public, seed, stage=NEURONS, score=kind, counts=widths, tokens=FITTING_TOKENS)
    found = has_tensors(key)
    chosen = cached_tensors(key, lambda: CachedTensors(score(batches()))).tensors
    return {path: chosen[path].clone() for path in widths}, {NEURONS: found}
