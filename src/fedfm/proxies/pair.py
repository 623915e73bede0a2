"""A backbone and the proxy that was made of it, before anything is tuned on them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import nn
from transformers import PreTrainedModel

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import blocks
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.base import Attach, ClientCopy, ClientModel
from fedfm.proxies.costs import of_descent
from fedfm.proxies.distillation import distill
from fedfm.proxies.ffn import Kept
from fedfm.proxies.fitting import FitStage
from fedfm.proxies.folder import check_backbone, plain_tensors, read_manifest, read_weights
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.matrix_packing import MatrixPacking, named, packings, round_in_place
from fedfm.proxies.settings import Bits, DistillSettings, ProxySettings
from fedfm.tasks.public import PublicData


@dataclass(frozen=True)
class ProxyPair(ABC):
    """A backbone and a proxy of it, neither of them with a tunable yet.

    Attributes:
        backbone: the real model, restricted to the layers that the proxy may tune.
        proxy: what clients get.
        loaded: whether the proxy comes from a folder, and thus is fitted already.
        found: whether each stage of cutting was found in the cache, by its name; of stages that are kept there.
    """

    backbone: Backbone
    proxy: Backbone
    loaded: bool = False
    found: Mapping[str, bool] = field(default_factory=dict)

    @property
    @abstractmethod
    def made_by(self) -> ProxySettings:
        """The settings that the proxy was cut by; those of its folder where it comes from one."""

    @property
    def kept(self) -> Kept:
        """Neurons that stay, by the path of each compressed block; empty where every FFN is whole."""
        return {}

    @property
    def layers(self) -> Sequence[int]:
        """For each block of the proxy, its number among the backbone's blocks."""
        return range(len(blocks(self.backbone.model, self.backbone.family)))

    @property
    @abstractmethod
    def own(self) -> dict[str, nn.Parameter]:
        """The proxy's parameters that it does not share with the backbone, by names from the base model."""

    @property
    @abstractmethod
    def compared(self) -> Pairs:
        """Blocks whose outputs are compared: the backbone's and the proxy's."""

    @property
    def origins(self) -> dict[str, str]:
        """Path in the backbone by path in the proxy, of every block."""
        theirs = [block.path for block in blocks(self.backbone.model, self.backbone.family)]
        mine = [block.path for block in blocks(self.proxy.model, self.proxy.family)]
        return {path: theirs[layer] for path, layer in zip(mine, self.layers, strict=True)}

    def read(self) -> Params:
        """A copy of `own`, on the CPU."""
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in self.own.items()}

    @torch.no_grad()
    def write(self, own: Params) -> None:
        """Sets `own`, in place.

        Raises:
            ValueError: names or shapes are not those of this proxy.
        """
        mine = self.own
        if {name: part.shape for name, part in mine.items()} != {name: part.shape for name, part in own.items()}:
            raise ValueError("these are another proxy's parameters")
        for name, parameter in mine.items():
            parameter.copy_(own[name])

    @property
    def packed(self) -> dict[str, MatrixPacking]:
        """How tensors of the proxy are packed where they are sent, by their names from its model."""
        return named(plain_tensors(self.proxy.model), self._packings())

    @property
    def packed_own(self) -> dict[str, MatrixPacking]:
        """The same of `own`, by names from the base model."""
        return named(self.own.items(), self._packings())

    def _packings(self) -> dict[nn.Parameter, MatrixPacking]:
        return packings(self.proxy.model, self.proxy.family, self.made_by.wire_bits)

    def round_own(self) -> None:
        """Gives `own` the values that clients get."""
        round_in_place({self.own[name]: packing for name, packing in self.packed_own.items()})

    @abstractmethod
    def copy(self) -> Self:
        """The backbone and a second proxy, which shares with this one what it shares with nothing that is fitted."""

    def client_copy(self) -> ClientCopy:
        """This proxy as a client's copy; it shares its tensors with the pair."""
        return ClientCopy(self.proxy, dict(self.own))

    @abstractmethod
    def at_server(
        self, settings: ProxySettings, attach: Attach, public: PublicData | None, *, seed: int
    ) -> ClientModel:
        """The server's side of the proxy, with tunables on both models.

        Args:
            settings: the recipe's ``proxy``.
            attach: attaches what the recipe tunes.
            public: public data; None where the recipe names none.
            seed: the recipe's seed.
        """

    @abstractmethod
    def stages(self, teacher: Tunable, student: Tunable, public: PublicData, *, seed: int) -> list[FitStage]:
        """How the proxy is fitted to the backbone before round 1, in place, stage by stage.

        Args:
            teacher: the backbone with its tunable.
            student: the proxy with the same values in its own.
            public: what it is fitted on.
            seed: the recipe's seed.
        """

    def distillation(
        self, teacher: Tunable, student: Tunable, public: PublicData, settings: DistillSettings, *, seed: int
    ) -> FitStage:
        """The stage that all kinds share: gradient steps on `compared` hidden states and, if wanted, predictions.

        Its fit raises a RecipeError at ``proxy.distill`` when the loss stops being a finite number.

        Raises:
            RecipeError: at ``proxy.distill.predictions`` when the predictions would be those of a new head.
        """
        if settings.predictions and self.backbone.new_head:
            raise RecipeError(
                f"{self.backbone.name} has a new head, whose predictions are random before training; set predictions=0",
                where="proxy.distill.predictions",
            )

        def fit() -> dict[str, float]:
            batches = public.batches(settings.batch_size, steps=settings.steps, seed=seed, purpose="distillation")
            losses = distill(teacher.model, student.model, self.compared, list(self.own.values()), batches, settings)
            return {"loss_first": losses[0], "loss_last": losses[-1], "steps": len(losses)}

        passes = of_descent(settings.steps, settings.batch_size, len(public))
        head = {"head": self.backbone.identity.head} if settings.predictions else {}
        return FitStage("distilled", settings.model_dump(mode="json") | head, fit, passes)


def make_pair(settings: ProxySettings, backbone: Backbone, public: PublicData | None, *, seed: int) -> ProxyPair:
    """Cuts a proxy out of a backbone, or takes one from a folder; nothing is trained.

    Args:
        settings: the recipe's ``proxy``.
        backbone: without a tunable.
        public: what data-driven scores are computed on.
        seed: the recipe's seed.

    Raises:
        RecipeError: when the backbone has no such layers or neurons, or the folder's proxy is of another backbone.
        DataError: when the folder is damaged.
    """
    if missing := backbone.family.uncuttable:
        raise RecipeError(f"{backbone.name} has no proxy: {missing}; use `none`", where="proxy.kind")
    path: str | None = getattr(settings, "path", None)
    if path is None:
        return settings.cut(backbone, public, seed=seed)
    return _from_folder(Path(path).expanduser(), settings, backbone, seed)


def _from_folder(folder: Path, settings: ProxySettings, backbone: Backbone, seed: int) -> ProxyPair:
    """The proxy of a folder: its own parameters are read, all others are this backbone's."""
    manifest = read_manifest(folder)
    check_backbone(manifest, backbone)
    if manifest.settings.kind != settings.kind:
        raise RecipeError(
            f"{folder} is a proxy of kind {manifest.settings.kind}, not {settings.kind}", where="proxy.path"
        )
    made_by = manifest.settings.model_copy(update={"path": None})
    _refuse_other_bits(settings, made_by, folder)
    pair = made_by.cut(backbone, None, seed=seed, kept=manifest.kept_neurons)
    weights = read_weights(folder, manifest, pair.proxy.model)
    prefix = "" if backbone.model.base_model is backbone.model else f"{backbone.model.base_model_prefix}."
    pair.write({name: weights[f"{prefix}{name}"] for name in pair.own})
    return replace(pair, loaded=True)


def _refuse_other_bits(settings: ProxySettings, made_by: ProxySettings, folder: Path) -> None:
    """Refuses bits beside a folder that was made with others, or without."""
    asked, has = settings.wire_bits, made_by.wire_bits
    if asked not in (Bits(), has):
        made = ", ".join(f"{key}={value}" for key, value in has.model_dump(exclude_none=True).items())
        raise RecipeError(
            f"the proxy in {folder} (`proxy.path`) was built with {made or 'no bits'}; leave out `proxy.bits`, or "
            "build the proxy again with these bits",
            where="proxy.bits",
        )


def sharing_copy(model: PreTrainedModel, own: Iterable[nn.Parameter]) -> PreTrainedModel:
    """A copy of a model that shares its parameters and buffers with it, all but ``own``, which are copied."""
    copied = {id(parameter) for parameter in own}
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in copied})
