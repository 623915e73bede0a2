"""The server's side of a proxy: made of the backbone, fitted before round 1, probed, realigned as training goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedfm.models.tunable import Tunable
from fedfm.params import Params, to_bytes
from fedfm.proxies import FedPFT, NoProxy, Offsite
from fedfm.proxies.activity import Activity, from_params, measure_activity
from fedfm.proxies.alignment import align
from fedfm.proxies.folder import plain_tensors, save_proxy, weights_digest
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
    def download_bytes(self) -> int:
        """What a client needs once, before its first round."""
        return len(to_bytes(dict(self.weights)))

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
            report=lambda stage: report(self._probed(stage)),
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
        self._carry(params)
        report(self._probed("before-alignment"))
        settings = self.settings.alignment
        counted = from_params(activity) if activity else self._measure(round)
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
            probes=self._probe_batches(),
        )
        ties = max(done.ties.values(), default=0.0)
        report({**self._probed("aligned"), "ties": ties})
        return version.next(self.model.read(), done.chosen)

    def save(self, folder: Path, version: ProxyVersion) -> None:
        """Writes the proxy as clients load it into an empty folder."""
        digest = weights_digest(self.model.backbone.model)
        save_proxy(folder, self.model.proxy, self.model.kept, self.settings, backbone=digest, version=version.number)

    def sizes(self) -> dict[str, Any]:
        """Parameters of proxy and backbone, and the share of the client's that are bit for bit the backbone's."""
        backbone, proxy = self.model.backbone, self.model.proxy
        return {
            "parameters": {
                "blocks": block_parameters(proxy.model, proxy.family),
                "backbone_blocks": block_parameters(backbone.model, backbone.family),
                "total": sum(tensor.numel() for tensor in self.weights.values()),
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

    def _measure(self, round: int) -> dict[str, Activity]:  # noqa: A002
        assert self.public is not None and isinstance(self.settings, FedPFT)  # noqa: S101, PT018 - for the type checker
        if self.settings.alignment.share == 1:
            return {}
        size = self.settings.alignment.batch_size
        batches = self.public.batches(size, steps=ACTIVITY_BATCHES, seed=self.seed, purpose="activity", round=round)
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
