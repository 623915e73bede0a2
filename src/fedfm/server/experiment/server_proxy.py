"""The server's side of a proxy: made of the backbone, fitted before round 1, probed, realigned as training goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.progress import stage
from fedfm.proxies import Alignment, FedPFT, NoProxy, Offsite
from fedfm.proxies.activity import Activity, from_params, measure_activity
from fedfm.proxies.alignment import align, overlap
from fedfm.proxies.ffn import neurons
from fedfm.proxies.folder import plain_tensors, save_proxy
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.model import ProxyModel, fit
from fedfm.proxies.plugin import PlugIn, plug_in_map
from fedfm.proxies.probes import probe
from fedfm.proxies.sizes import bit_equal_share, block_parameters
from fedfm.proxies.versions import ProxyVersion
from fedfm.recipe import Recipe
from fedfm.tasks import Task
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData
from fedfm.wire import stored_bytes

PROBE_BATCH, ACTIVITY_BATCHES = 8, 8
"""Public examples a batch of the probes; batches on which neurons' use is measured."""

Report = Callable[[dict[str, Any]], None]
"""Hears of a stage of the proxy: what metrics.jsonl will say of it."""


@dataclass(frozen=True)
class ServerProxy:
    """A proxy as the server holds it: beside the backbone, with tunables on both.

    Attributes:
        settings: the recipe's ``proxy``.
        model: backbone and proxy.
        backbone: the tunable on the backbone.
        proxy: the tunable on the proxy.
        plug_in: the way from the one to the other.
        weights: everything that a client downloads, by name.
        public: public data; None where nothing is to be fitted.
        seed: the run's seed.
    """

    settings: FedPFT | Offsite
    model: ProxyModel
    backbone: Tunable
    proxy: Tunable
    plug_in: PlugIn
    weights: Mapping[str, Tensor]
    public: PublicData | None
    seed: int

    @property
    def widths(self) -> dict[str, int]:
        """Neurons of each compressed FFN by its block's path."""
        return {block.path: neurons(block) for block in self.model.compressed}

    @property
    def download_bytes(self) -> int:
        """What a client needs once, before its first round."""
        return stored_bytes(self.weights)

    @property
    def alignment_bytes(self) -> int:
        """What one alignment sends to a client that holds the version before; 0 where there is none."""
        if not isinstance(self.settings, FedPFT) or self.settings.interval is None:
            return 0
        share = self.settings.alignment.share
        chosen = {path: torch.arange(width) < math.ceil(share * width) for path, width in self.widths.items()}
        first = ProxyVersion.first(self.model.read(), self.model.compressed)
        return stored_bytes(first.next(first.own, chosen).changes(0, self.model.compressed))

    def prepare(self, start: Params, report: Report) -> ProxyVersion:
        """Fits the proxy, and says after each stage how like the backbone it is.

        Args:
            start: the tunable before round 1.
            report: hears of each stage.

        Raises:
            RecipeError: the fit diverged.
        """
        self._carry(start)
        fit(
            self.model,
            self.backbone,
            self.proxy,
            self.settings,
            self.public,
            seed=self.seed,
            report=lambda stage, done: report({**self._probed(stage), **done}),
        )
        return ProxyVersion.first(self.model.read(), self.model.compressed)

    def load(self, version: ProxyVersion) -> None:
        """Puts the proxy back to what it was at a version."""
        self.model.write(version.own)

    def align(
        self,
        version: ProxyVersion,
        params: Params,
        round: int,  # noqa: A002 - the field's word
        activity: Params,
        report: Report,
    ) -> ProxyVersion:
        """Realigns the proxy with the backbone, both carrying what was aggregated.

        Args:
            version: the proxy now.
            params: the aggregate of this round.
            round: this round.
            activity: counts that clients sent; empty where public data tells how much neurons are used.
            report: hears how like the backbone the proxy is before and after.

        Raises:
            RecipeError: the fit diverged.
        """
        if not isinstance(self.settings, FedPFT) or self.public is None:
            raise TypeError("only a FedPFT proxy with public data is aligned")
        settings = self.settings.alignment
        uncounted = self.settings.counts_at_clients and not activity
        if uncounted or not self.model.pairs:
            report({"stage": "alignment-skipped"})  # nobody took part, or nothing is compressed
            return version
        self._carry(params)
        report(self._probed("before-alignment"))
        counted = from_params(activity) if self.settings.counts_at_clients else self._measure(settings, round)
        with stage("aligning the proxy"):
            done = align(
                self.backbone,
                self.proxy,
                self.model.pairs,
                self.model.own,
                counted,
                self.public.batches(
                    settings.batch_size, steps=settings.steps, seed=self.seed, purpose="alignment", round=round
                ),
                settings,
                seed=self.seed,
                round=round,
            )
        ties = max(done.ties.values(), default=0.0)
        figures = {"loss_first": done.losses[0], "loss_last": done.losses[-1], "ties": ties}
        if version.number:
            before = {path: changed == version.number for path, changed in version.changed.items()}
            figures["overlap"] = overlap(before, done.chosen)
        report({**self._probed("aligned"), **figures})
        return version.next(self.model.read(), done.chosen)

    def save(self, folder: Path, version: ProxyVersion) -> None:
        """Writes the proxy as clients load it into an empty folder."""
        model = self.model
        save_proxy(
            folder,
            model.proxy,
            model.kept,
            model.made_by,
            version=version.number,
            tensors=dict(self.weights),
        )

    def sizes(self) -> dict[str, Any]:
        """Parameters of proxy and backbone, and the share of the client's that are bit for bit the backbone's."""
        backbone, proxy = self.model.backbone, self.model.proxy
        return {
            "parameters": {
                "blocks": block_parameters(proxy.model, proxy.family),
                "backbone_blocks": block_parameters(backbone.model, backbone.family),
                "total": sum(tensor.numel() for tensor in self.weights.values() if isinstance(tensor, nn.Parameter)),
            },
            "disclosed": bit_equal_share(backbone, proxy, self.model.kept, self.model.origins),
        }

    def _carry(self, params: Params) -> None:
        """Both models get the same tunable."""
        self.backbone.write(self.plug_in.to_backbone(params))
        self.proxy.write(params)

    def _probe_batches(self) -> list[Batch]:
        examples = self.settings.probe
        if self.public is None or not examples:
            return []
        size = min(PROBE_BATCH, examples)
        return self.public.fixed(size, -(-examples // size), seed=self.seed, purpose="probes")

    def _probed(self, stage: str) -> dict[str, Any]:
        batches = self._probe_batches()
        if not batches:
            return {"stage": stage}
        names = {name: place.name for name, place in self.plug_in.places.items()}
        errors = layer_errors(self.backbone.model, self.proxy.model, self.model.pairs, batches)
        found = probe(self.backbone, self.proxy, batches, seed=self.seed, names=names, hidden_errors=errors)
        return {"stage": stage, **found.record()}

    def _measure(self, settings: Alignment, round: int) -> dict[str, Activity]:  # noqa: A002
        """How much neurons are used on public data."""
        if settings.share == 1 or self.public is None:
            return {}
        batches = self.public.batches(
            settings.batch_size, steps=ACTIVITY_BATCHES, seed=self.seed, purpose="activity", round=round
        )
        return measure_activity(self.proxy.model, self.model.compressed, batches)


def make_server_proxy(
    recipe: Recipe, model: ProxyModel, backbone: Tunable, task: Task, public: PublicData | None
) -> ServerProxy:
    """Attaches the recipe's tunable to the server's copy of a proxy.

    Args:
        recipe: the run's.
        model: backbone and proxy.
        backbone: the tunable on the backbone.
        task: what is learnt.
        public: public data.

    Raises:
        RecipeError: at ``tune`` when what is tuned has no place in both.
    """
    weights = dict(plain_tensors(model.proxy.model))
    proxy = recipe.tune.attach(model.proxy, task_type=task.peft_type, seed=recipe.seed)
    kept = [*model.layers.kept] if model.layers else None
    plug_in = plug_in_map(proxy, backbone, model.proxy, model.backbone, kept=model.kept, layers=kept)
    assert not isinstance(recipe.proxy, NoProxy)  # noqa: S101 - for the type checker
    return ServerProxy(recipe.proxy, model, backbone, proxy, plug_in, weights, public, recipe.seed)
