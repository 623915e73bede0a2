"""A proxy beside its backbone: made as the recipe says, fitted on public data, and the pairs of blocks to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

import torch
from torch import nn

from fedfm.errors import RecipeError
from fedfm.models.backbones import Backbone
from fedfm.models.families import Block, blocks
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.proxies.closed_form import refit_outputs
from fedfm.proxies.construct import Kept, choose, compressed_blocks, kept_blocks, make_proxy, own_parameters
from fedfm.proxies.distillation import distill
from fedfm.proxies.folder import check_backbone, read_manifest, read_weights
from fedfm.proxies.hidden import Pairs
from fedfm.proxies.offsite import (
    Layers,
    choose_layers,
    emulator_pair,
    emulator_parameters,
    make_offsite,
    with_adapters,
)
from fedfm.proxies.scores import scores
from fedfm.proxies.settings import FedPFT, Offsite
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData

Report = Callable[[str, dict[str, float]], None]
"""Hears of a stage: its name, and figures of what was done."""

SCORING_BATCHES, FITTING_BATCHES = 8, 16
"""Public batches that data-driven scores, and the closed form, are computed on."""


@dataclass(frozen=True)
class ProxyModel:
    """A proxy of a backbone, neither of them with a tunable yet.

    Attributes:
        made_by: the settings that decided its make; those of its folder where it comes from one.
        backbone: the real model, restricted to the layers that the proxy may tune.
        proxy: what clients get.
        kept: neurons that stay, by the path of each compressed block; empty for offsite tuning.
        layers: the backbone's layers that an offsite proxy has; None where it has all.
        fitted: whether it comes from a folder, fitted already.
    """

    made_by: FedPFT | Offsite
    backbone: Backbone
    proxy: Backbone
    kept: Kept
    layers: Layers | None = None
    fitted: bool = False

    @property
    def own(self) -> dict[str, nn.Parameter]:
        """The proxy's parameters that it does not share with the backbone, by names from the base model."""
        if self.layers is not None:
            return emulator_parameters(self.proxy, self.layers)
        return own_parameters(self.proxy, self.kept)

    @property
    def compressed(self) -> list[Block]:
        """The proxy's blocks of which neurons were cut; none for offsite tuning."""
        return kept_blocks(self.proxy, self.kept)

    @property
    def pairs(self) -> Pairs:
        """Blocks whose outputs should be alike: the backbone's and the proxy's."""
        if self.layers is not None:
            return [emulator_pair(self.backbone, self.proxy, self.layers)]
        whole = {block.path: block for block in blocks(self.backbone.model, self.backbone.family)}
        return [(whole[block.path], block) for block in self.compressed]

    @property
    def origins(self) -> dict[str, str]:
        """Path in the backbone by path in the proxy, of every block."""
        theirs = [block.path for block in blocks(self.backbone.model, self.backbone.family)]
        chosen = theirs if self.layers is None else [theirs[layer] for layer in self.layers.kept]
        mine = [block.path for block in blocks(self.proxy.model, self.proxy.family)]
        return dict(zip(mine, chosen, strict=True))

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

    def copy(self) -> ProxyModel:
        """Another proxy of the same make, its own parameters as they were cut out; for another holder."""
        if self.layers is not None:
            return replace(self, proxy=make_offsite(self.backbone, self.layers))
        return replace(self, proxy=make_proxy(self.backbone, self.kept))


def make(settings: FedPFT | Offsite, backbone: Backbone, public: PublicData | None, *, seed: int) -> ProxyModel:
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
    if settings.path is not None:
        return _from_folder(Path(settings.path).expanduser(), settings, backbone)
    if isinstance(settings, Offsite):
        return _offsite(settings, backbone)
    compressed = compressed_blocks(backbone, settings.keep_layers)
    needs_data = settings.score in ("activation", "gradient")
    batches = public.fixed(16, SCORING_BATCHES, seed=seed, purpose="scores") if public and needs_data else []
    kept = choose(scores(backbone, compressed, settings.score, batches, seed), settings, compressed)
    return ProxyModel(settings, backbone, make_proxy(backbone, kept), kept)


def _offsite(settings: Offsite, backbone: Backbone) -> ProxyModel:
    layers = choose_layers(backbone, settings)
    return ProxyModel(settings, with_adapters(backbone, layers), make_offsite(backbone, layers), {}, layers)


def _from_folder(folder: Path, settings: FedPFT | Offsite, backbone: Backbone) -> ProxyModel:
    """What a folder's proxy has of its own, beside this backbone's everything else."""
    manifest = read_manifest(folder)
    check_backbone(manifest, backbone)
    made_by = manifest.settings.model_copy(update={"path": None})
    if made_by.kind != settings.kind:
        raise RecipeError(f"{folder} is a proxy of kind {made_by.kind}, not {settings.kind}", where="proxy.path")
    if isinstance(made_by, Offsite):
        model = _offsite(made_by, backbone)
    else:
        kept = manifest.kept_neurons
        model = ProxyModel(made_by, backbone, make_proxy(backbone, kept), kept)
    weights = read_weights(folder, manifest)
    prefix = "" if backbone.model.base_model is backbone.model else f"{backbone.model.base_model_prefix}."
    model.write({name: weights[f"{prefix}{name}"] for name in model.own})
    return replace(model, fitted=True)


def fit(
    model: ProxyModel,
    teacher: Tunable,
    student: Tunable,
    settings: FedPFT | Offsite,
    public: PublicData | None,
    *,
    seed: int,
    report: Report,
) -> None:
    """Fits a proxy to its backbone before round 1, in place: in closed form, then by distillation.

    Args:
        model: freshly made.
        teacher: the backbone with its tunable.
        student: the proxy with the same values in its own.
        settings: the recipe's ``proxy``.
        public: what it is fitted on; not needed where nothing is to be fitted.
        seed: the recipe's seed.
        report: hears the name of each stage once it is done, and what it did.

    Raises:
        RecipeError: at ``proxy.distill`` when the loss stops being a finite number.
    """
    report("loaded" if model.fitted else "constructed", {})
    if model.fitted or public is None or not model.pairs:
        return
    if isinstance(settings, FedPFT) and settings.closed_form and model.kept:
        batches: Sequence[Batch] = public.fixed(16, FITTING_BATCHES, seed=seed, purpose="closed form")
        refits = refit_outputs(student.model, model.pairs, model.kept, batches, settings.ridge)
        before, after = (sum(map(attrgetter(side), refits.values())) / len(refits) for side in ("before", "after"))
        report("closed-form", {"residual_before": before, "residual_after": after})
    if settings.distill is not None:
        steps, size = settings.distill.steps, settings.distill.batch_size
        batches_of_steps = public.batches(size, steps=steps, seed=seed, purpose="distillation")
        own = list(model.own.values())
        losses = distill(teacher.model, student.model, model.pairs, own, batches_of_steps, settings.distill)
        report("distilled", {"loss_first": losses[0], "loss_last": losses[-1], "steps": len(losses)})
