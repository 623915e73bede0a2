"""The server's side of a proxy: holds it with the backbone, fits it, and compares the two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedfm.params import Params
from fedfm.progress import stage
from fedfm.proxies.base import Attach, ClientModel, Judge, ModelVersion, Report
from fedfm.proxies.folder import plain_tensors, save_proxy
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.matrix_packing import pack, packed_sizes
from fedfm.proxies.near_copies import disclosed, near_copies
from fedfm.proxies.pair import ProxyPair
from fedfm.proxies.plug_in_distillation import compare, distill_plug_in
from fedfm.proxies.plugin import plug_in_map
from fedfm.proxies.probes import probe
from fedfm.proxies.settings import PlugInSettings
from fedfm.proxies.sizes import block_parameters
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData
from fedfm.wire import stored_bytes

PROBE_BATCH = 8
"""Public examples in a batch of the probes."""

HELD_BACK = 128
"""Public examples that plug-in distillation does not learn from, by which its outcome is judged."""


class ProxyModel(ClientModel):
    """A proxy that is fitted before round 1 and does not change after; a kind that changes overrides `advance`.

    Attributes:
        pair: backbone and proxy.
        plug_in: the way from the proxy's tunable to the backbone's.
        public: public data; None where nothing is fitted or compared.
        seed: the run's seed.
    """

    def __init__(
        self,
        pair: ProxyPair,
        attach: Attach,
        public: PublicData | None,
        *,
        probe: int,
        plug_in: PlugInSettings,
        seed: int,
    ) -> None:
        """Attaches tunables to the backbone, to the proxy, and to a copy of the proxy for clients on this machine.

        Args:
            pair: backbone and proxy, without tunables.
            attach: attaches what the recipe tunes.
            public: public data; None where the recipe names none.
            probe: public examples on which the two are compared.
            plug_in: what happens once training is over.
            seed: the recipe's seed.

        Raises:
            RecipeError: at ``tune`` when what is tuned has no place in both.
        """
        self.pair = pair
        self.public = public
        self.seed = seed
        self._probe = probe
        self._final = plug_in.distill
        self._weights = dict(plain_tensors(pair.proxy.model))
        self.client = pair.copy().client_copy()  # before a tunable is attached to what is copied
        self.tunable = attach(pair.backbone)
        self.server_tunable = attach(pair.proxy)
        self.client_tunable = attach(self.client.model)
        self.plug_in = plug_in_map(self.server_tunable, self.tunable, pair.proxy, pair.backbone, pair.kept, pair.layers)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer of the proxy, without the tunable, by name; packed as ``proxy.bits`` says."""
        return pack(self._weights, self.pair.packed)

    @property
    def download_bytes(self) -> int:
        """Size of `weights`."""
        return stored_bytes(packed_sizes(self._weights, self.pair.packed))

    def to_backbone(self, params: Params) -> Params:
        """The plug-in."""
        return self.plug_in.to_backbone(params)

    def from_backbone(self, params: Params) -> Params:
        """Undoes the plug-in."""
        return self.plug_in.to_proxy(params)

    @property
    def refines(self) -> bool:
        """Whether the recipe asks for plug-in distillation."""
        return self._final is not None and self.public is not None

    def refine(self, params: Params, judge: Judge | None, report: Report) -> Params | None:
        """Plug-in distillation, and whether its outcome is kept."""
        settings = self._final
        if settings is None or self.public is None:
            return None
        self.carry(params)
        plugged = self.tunable.read()
        rest, held = self.public.held_back(HELD_BACK, seed=self.seed, purpose="plug-in held back")
        apart = held.fixed(PROBE_BATCH, HELD_BACK // PROBE_BATCH, seed=self.seed, purpose="plug-in held back")
        before = compare(self.server_tunable, self.tunable, apart)
        batches = rest.batches(settings.batch_size, steps=settings.steps, seed=self.seed, purpose="plug-in")
        with stage("distilling the plug-in"):
            losses = distill_plug_in(self.server_tunable, self.tunable, self.pair.compared, batches, settings)
        after, refined = compare(self.server_tunable, self.tunable, apart), self.tunable.read()
        if settings.keep == "always":
            kept = True
        else:
            kept = after.is_better_than(before) if judge is None else judge(refined) > judge(plugged)
        report(
            {
                "stage": "plug-in distilled",
                "loss_first": losses[0],
                "loss_last": losses[-1],
                "divergence_before": before.divergence,
                "divergence_after": after.divergence,
                "confidence_before": before.confidence,
                "confidence_after": after.confidence,
                "kept": float(kept),
            }
        )
        return refined if kept else None

    def prepare(self, start: Params, report: Report) -> ModelVersion:
        """Fits the proxy, and compares it with the backbone after each stage."""
        self.carry(start)

        def probed(stage: str, done: dict[str, float]) -> None:
            report({**self.compare(stage), **done})

        probed("loaded" if self.pair.loaded else "constructed", {})
        if not self.pair.loaded and self.public is not None and self.pair.compared:
            self.pair.fit(self.tunable, self.server_tunable, self.public, seed=self.seed, report=probed)
        if not self.pair.loaded and self.pair.packed_own:
            self.pair.round_own()
            probed("quantised", {})
        return self.first_version()

    def first_version(self) -> ModelVersion:
        """Version 0, with the proxy as it is now."""
        return ModelVersion(0, self.pair.read())

    def load(self, version: ModelVersion) -> None:
        """Sets the server's copy to a version."""
        self.pair.write(version.own)

    def save(self, folder: Path, version: ModelVersion) -> None:
        """Writes the proxy, as clients load it, into an empty folder."""
        save_proxy(
            folder,
            self.pair.proxy,
            self.pair.kept,
            self.pair.made_by,
            version=version.number,
            tensors=dict(self._weights),
        )

    def sizes(self) -> dict[str, Any]:
        """Parameters of proxy and backbone, and how much of the backbone's blocks clients hold nearly unchanged."""
        backbone, proxy = self.pair.backbone, self.pair.proxy
        shares = near_copies(backbone, proxy, self.pair.kept, self.pair.origins)
        return {
            "parameters": {
                "blocks": block_parameters(proxy.model, proxy.family),
                "backbone_blocks": block_parameters(backbone.model, backbone.family),
                "total": sum(tensor.numel() for tensor in self._weights.values() if isinstance(tensor, nn.Parameter)),
            },
            "disclosed": disclosed(backbone, shares),
            "disclosed_blocks": shares,
        }

    def carry(self, params: Params) -> None:
        """Writes the same tunable into backbone and proxy."""
        self.tunable.write(self.to_backbone(params))
        self.server_tunable.write(params)

    def compare(self, stage: str) -> dict[str, Any]:
        """The record of a stage: how the proxy's gradient and outputs compare with the backbone's on public data."""
        batches = self._probe_batches()
        if not batches:
            return {"stage": stage}
        names = {name: place.name for name, place in self.plug_in.places.items()}
        errors = layer_errors(self.tunable.model, self.server_tunable.model, self.pair.compared, batches)
        found = probe(self.tunable, self.server_tunable, batches, seed=self.seed, names=names, hidden_errors=errors)
        return {"stage": stage, **found.record()}

    def _probe_batches(self) -> list[Batch]:
        if self.public is None or not self._probe:
            return []
        size = min(PROBE_BATCH, self._probe)
        return self.public.fixed(size, -(-self._probe // size), seed=self.seed, purpose="probes")
