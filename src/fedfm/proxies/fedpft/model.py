"""The server's side of a FedPFT proxy: realigned with the tuned backbone every few rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedfm.models.families import blocks
from fedfm.params import Params
from fedfm.progress import stage
from fedfm.proxies.base import Attach, ModelVersion, Report
from fedfm.proxies.costs import Passes, of_descent
from fedfm.proxies.fedpft.activity import Activity, activity_problem, from_params, measure_activity
from fedfm.proxies.fedpft.alignment import align, overlap
from fedfm.proxies.fedpft.closed_form import ALIGNMENT_TOKENS, FITTING_SIZE, realign_outputs, residuals
from fedfm.proxies.fedpft.settings import Alignment, FedPFT
from fedfm.proxies.fedpft.versions import (
    changes_since,
    first_version,
    last_touched,
    neurons_touched,
    next_version,
    outputs_touched,
)
from fedfm.proxies.ffn import neurons
from fedfm.proxies.layerwise import LayerwisePass
from fedfm.proxies.matrix_packing import pack
from fedfm.proxies.proxy_model import ProxyModel
from fedfm.tasks.public import PublicData
from fedfm.wire import stored_bytes

if TYPE_CHECKING:
    from fedfm.proxies.fedpft.pair import FedPFTPair

ACTIVITY_BATCHES = 8
"""Public batches on which neurons' use is measured."""


class FedPFTModel(ProxyModel):
    """A FedPFT proxy as the server keeps it.

    Attributes:
        pair: backbone and proxy.
        settings: the recipe's ``proxy``.
    """

    pair: FedPFTPair

    def __init__(
        self, pair: FedPFTPair, settings: FedPFT, attach: Attach, public: PublicData | None, *, seed: int
    ) -> None:
        """Arguments as of `ProxyModel`, with the recipe's ``proxy``."""
        super().__init__(pair, attach, public, probe=settings.probe, plug_in=settings.plug_in, seed=seed)
        self.settings = settings
        self.accepts_stale = settings.accepts_stale

    @property
    def widths(self) -> dict[str, int]:
        """Neurons of each compressed FFN by its block's path."""
        return {block.path: neurons(block) for block in self.pair.compressed}

    @property
    def alignment_bytes(self) -> int:
        """What one alignment sends to a client that holds the version before; 0 without alignment."""
        if self.settings.interval is None:
            return 0
        settings, first, compressed = self.settings.alignment, self.first_version(), self.pair.compressed
        if settings.closed_form:
            touched = outputs_touched(compressed)
        else:
            share = settings.share
            chosen = {path: torch.arange(width) < math.ceil(share * width) for path, width in self.widths.items()}
            touched = neurons_touched(first.own, compressed, chosen)
        return stored_bytes(self.changes(next_version(first, first.own, touched), 0))

    @property
    def alignment_passes(self) -> Passes | None:
        """An alignment, the comparison before it, and where neurons are chosen, counting their use."""
        if self.settings.interval is None or self.public is None:
            return None
        settings, examples = self.settings.alignment, len(self.public)
        if settings.closed_form:
            fitted = self.public.passes_for(ALIGNMENT_TOKENS)
            passes = Passes(fitted, 2 * fitted)  # the proxy's blocks run for the regression, and once more to go on
        else:
            passes = of_descent(settings.steps, settings.batch_size, examples)
            if settings.chooses and settings.data == "public":
                passes += Passes(0, ACTIVITY_BATCHES * min(settings.batch_size, examples))
        return passes + self._probe_passes()

    def first_version(self) -> ModelVersion:
        """Version 0, in which no neuron has changed."""
        return first_version(self.pair.read(), self.pair.compressed)

    def is_due(self, round: int) -> bool:  # noqa: A002 - the field's word
        """Every ``interval`` rounds, before the next round."""
        interval = self.settings.interval
        return interval is not None and round > 0 and round % interval == 0

    def counts_at(self, round: int) -> bool:  # noqa: A002
        """Whether the alignment after this round chooses neurons by counts from clients."""
        return self.settings.counts_at_clients and self.is_due(round)

    def activity_problem(self, activity: Mapping[str, Tensor]) -> str | None:
        """Why counts that a client sent cannot be counts of this proxy's neurons, or None when they can."""
        return activity_problem(activity, self.widths)

    def changes(self, version: ModelVersion, since: int) -> Params:
        """Slices of the neurons that changed since, and what belongs to no neuron; packed as ``proxy.bits`` says."""
        return pack(changes_since(version, since, self.pair.compressed), self.pair.packed_own)

    def advance(
        self,
        version: ModelVersion,
        params: Params,
        round: int,  # noqa: A002
        activity: Params,
        report: Report,
    ) -> ModelVersion:
        """Realigns the proxy with the backbone, both carrying ``params``; reports how they compare before and after.

        The version stays where no client sent counts that were asked for, and where no FFN is compressed.
        """
        if self.public is None:
            raise ValueError("alignment needs public data")
        counts = self.settings.counts_at_clients
        if (counts and not activity) or not self.pair.compared:
            report({"stage": "alignment-skipped"})
            return version
        self.carry(params)
        report(self.compare("before-alignment"))
        with stage("aligning the proxy"):
            if self.settings.alignment.closed_form:
                figures, touched = self._refit(self.public, round)
            else:
                counted = from_params(activity) if counts else None
                figures, touched = self._step(self.public, version, counted, round)
        self.pair.round_own()
        report({**self.compare("aligned"), **figures})
        return next_version(version, self.pair.read(), touched)

    def _refit(self, public: PublicData, round: int) -> tuple[dict[str, float], dict[str, Tensor]]:  # noqa: A002
        """Alignment in closed form: figures of what it did, and what it may have changed."""
        backbone, proxy = self.pair.backbone, self.pair.proxy
        batches = public.enough(ALIGNMENT_TOKENS, FITTING_SIZE, seed=self.seed, purpose="alignment", round=round)
        teacher, student = self.tunable.model.eval(), self.server_tunable.model.eval()
        refits = realign_outputs(
            LayerwisePass(teacher, blocks(backbone.model, backbone.family), batches, changes=False),
            LayerwisePass(student, blocks(proxy.model, proxy.family), batches),
            self.pair.compared,
            self.settings.alignment.ridge,
        )
        return residuals(refits), outputs_touched(self.pair.compressed)

    def _step(
        self,
        public: PublicData,
        version: ModelVersion,
        counted: dict[str, Activity] | None,
        round: int,  # noqa: A002
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Alignment by optimiser steps: figures of what it did, and what it may have changed."""
        settings = self.settings.alignment
        done = align(
            self.tunable,
            self.server_tunable,
            self.pair.compared,
            self.pair.own,
            self._measure(public, settings, round) if counted is None else counted,
            public.batches(settings.batch_size, steps=settings.steps, seed=self.seed, purpose="alignment", round=round),
            settings,
            seed=self.seed,
            round=round,
        )
        ties = max(done.ties.values(), default=0.0)
        figures = {"loss_first": done.losses[0], "loss_last": done.losses[-1], "ties": ties}
        if version.number:
            figures["overlap"] = overlap(last_touched(version, self.pair.compressed), done.chosen)
        return figures, neurons_touched(version.own, self.pair.compressed, done.chosen)

    def _measure(self, public: PublicData, settings: Alignment, round: int) -> dict[str, Activity]:  # noqa: A002
        """How much neurons are used on public data; empty where all are refitted."""
        if not settings.chooses:
            return {}
        batches = public.batches(
            settings.batch_size, steps=ACTIVITY_BATCHES, seed=self.seed, purpose="activity", round=round
        )
        return measure_activity(self.server_tunable.model, self.pair.compressed, batches)
