"""The server's side of a proxy: holds it with the backbone, fits it, and compares the two."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedfm.data.tensor_cache import CachedTensors, cached_tensors, has_tensors, tensor_key
from fedfm.params import Params, digest
from fedfm.progress import stage
from fedfm.proxies.base import Attach, ClientModel, Judge, Making, ModelVersion, Report
from fedfm.proxies.costs import Passes, pass_seconds
from fedfm.proxies.fitting import FitStage, adapter_settings, making_key
from fedfm.proxies.folder import plain_tensors, save_proxy
from fedfm.proxies.hidden import layer_errors
from fedfm.proxies.matrix_packing import pack, packed_sizes
from fedfm.proxies.near_copies import disclosed, near_copies
from fedfm.proxies.pair import ProxyPair
from fedfm.proxies.plug_in_distillation import compare, distill_plug_in
from fedfm.proxies.plugin import plug_in_map
from fedfm.proxies.probes import READOUTS, probe
from fedfm.proxies.settings import PlugInSettings
from fedfm.proxies.sizes import block_parameters
from fedfm.proxies.trace import without_adapter
from fedfm.tasks.base import Batch
from fedfm.tasks.public import PublicData
from fedfm.wire import stored_bytes

PROBE_BATCH = 8
"""Public examples in a batch of the probes."""

TIMED_SIZE, TIMED_BATCHES = 16, 2
"""Public examples in a batch, and batches, by which a pass is timed."""

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
        return self._final is not None

    def refine(self, params: Params, public: PublicData, judge: Judge | None, report: Report) -> Params | None:
        """Plug-in distillation, and whether its outcome is kept."""
        settings = self._final
        if settings is None:
            return None
        self.carry(params)
        plugged = self.tunable.read()
        rest, held = public.held_back(HELD_BACK, seed=self.seed, purpose="plug-in held back")
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
        if self.pair.loaded:
            report(self.compare("loaded"))
            return self.first_version()
        if self.public is None:
            report(self.compare("constructed"))
        else:
            seen = self._seen(start)
            report(self._compared("constructed", self._key(self.public, []), seen))
            for key, step in self._stages().items():
                made = cached_tensors(key, partial(self._fit, step))
                self.pair.write(dict(made.tensors))
                report({**self._compared(step.name, key, seen), **made.facts})
        if self.pair.packed_own:
            self.pair.round_own()
            report(self.compare("quantised"))
        return self.first_version()

    @property
    def making(self) -> dict[str, Making]:
        """How far each stage of cutting and fitting is, of those that the cache keeps."""
        making: dict[str, Making] = {name: "found" if found else "made" for name, found in self.pair.found.items()}
        for key, step in self._stages().items():
            making[step.name] = "found" if has_tensors(key) else "missing"
        return making

    def cpu_seconds(self) -> dict[str, float]:
        """About what each stage that is ``missing`` takes, and one ``alignment`` where there are any."""
        if self.public is None:
            return {}
        missing = {name for name, state in self.making.items() if state == "missing"}
        work = {step.name: step.passes for step in self._stages().values() if step.name in missing}
        if (passes := self.alignment_passes) is not None:
            work["alignment"] = passes
        if not work:
            return {}
        batches = self.public.fixed(TIMED_SIZE, TIMED_BATCHES, seed=self.seed, purpose="speed")
        with stage("timing one pass"):
            speed = Passes(*(pass_seconds(half.model, batches) for half in (self.tunable, self.server_tunable)))
        probing = self._probe_passes()
        return {name: (passes + probing).seconds(speed) for name, passes in work.items()}

    @property
    def alignment_passes(self) -> Passes | None:
        """What one alignment computes; None where the proxy does not change."""
        return None

    def _stages(self) -> dict[str, FitStage]:
        """Stages of fitting by their keys in the cache, which depend on all stages before."""
        if self.pair.loaded or self.public is None or not self.pair.compared:
            return {}
        before, found = list[object](), dict[str, FitStage]()
        for step in self.pair.stages(self.tunable, self.server_tunable, self.public, seed=self.seed):
            before.append([step.name, dict(step.settings)])
            found[self._key(self.public, before)] = step
        return found

    def _key(self, public: PublicData, stages: list[object]) -> str:
        """The key of the proxy after some stages."""
        return making_key(
            self.pair.backbone,
            public,
            self.seed,
            kind=self.pair.made_by.kind,
            kept={path: index.tolist() for path, index in self.pair.kept.items()},
            layers=list(self.pair.layers),
            bits=self.pair.made_by.wire_bits.model_dump(),
            stages=stages,
        )

    def _seen(self, start: Params) -> dict[str, object]:
        """What a comparison depends on beside the proxy: head, what is tuned, and how many examples."""
        backbone = self.pair.backbone
        head = [backbone.identity.head, sorted(backbone.new_head), type(backbone.model).__name__]
        return {
            "head": [*head, backbone.model.config.num_labels],
            "start": digest(start),
            "adapters": [adapter_settings(half.model) for half in (self.tunable, self.server_tunable)],
            "probe": self._probe,
        }

    def _compared(self, stage: str, key: str, seen: dict[str, object]) -> dict[str, Any]:
        """As `compare`; the record is kept in the cache like the proxy itself."""
        kept = tensor_key(proxy=key, record=stage, **seen)
        return dict(cached_tensors(kept, lambda: CachedTensors({}, self.compare(stage))).facts)

    def _fit(self, step: FitStage) -> CachedTensors:
        """Fits the proxy without what is tuned, on which its outcome does not depend."""
        with without_adapter(self.tunable.model), without_adapter(self.server_tunable.model):
            figures = step.fit()
        return CachedTensors(self.pair.read(), figures)

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

    def _probe_passes(self) -> Passes:
        """One comparison: hidden states, outputs, and the gradient of each read-out."""
        examples = 0 if self.public is None else min(self._probe, len(self.public))
        return Passes(examples * (2 + READOUTS), examples * (2 + READOUTS))

    def _probe_batches(self) -> list[Batch]:
        if self.public is None or not self._probe:
            return []
        size = min(PROBE_BATCH, self._probe)
        return self.public.fixed(size, -(-self._probe // size), seed=self.seed, purpose="probes")
