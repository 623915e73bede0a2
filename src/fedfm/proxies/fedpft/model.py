"""The server's side of a FedPFT proxy: realigned with the tuned backbone every few rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedfm.params import Params
from fedfm.progress import stage
from fedfm.proxies.base import Attach, ModelVersion, Report
from fedfm.proxies.fedpft.activity import Activity, activity_problem, from_params, measure_activity
from fedfm.proxies.fedpft.alignment import align, overlap
from fedfm.proxies.fedpft.settings import Alignment, FedPFT
from fedfm.proxies.fedpft.versions import changes_since, first_version, next_version
from fedfm.proxies.ffn import neurons
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
        super().__init__(pair, attach, public, probe=settings.probe, seed=seed)
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
        share = self.settings.alignment.share
        chosen = {path: torch.arange(width) < math.ceil(share * width) for path, width in self.widths.items()}
        first = self.first_version()
        return stored_bytes(self.changes(next_version(first, first.own, chosen), 0))

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
        """Slices of the neurons that changed since, and what belongs to no neuron."""
        return changes_since(version, since, self.pair.compressed)

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
        settings = self.settings.alignment
        self.carry(params)
        report(self.compare("before-alignment"))
        counted = from_params(activity) if counts else self._measure(self.public, settings, round)
        batches = self.public.batches(
            settings.batch_size, steps=settings.steps, seed=self.seed, purpose="alignment", round=round
        )
        with stage("aligning the proxy"):
            done = align(
                self.tunable,
                self.server_tunable,
                self.pair.compared,
                self.pair.own,
                counted,
                batches,
                settings,
                seed=self.seed,
                round=round,
            )
        ties = max(done.ties.values(), default=0.0)
        figures = {"loss_first": done.losses[0], "loss_last": done.losses[-1], "ties": ties}
        if version.number:
            before = {path: changed == version.number for path, changed in version.changed.items()}
            figures["overlap"] = overlap(before, done.chosen)
        report({**self.compare("aligned"), **figures})
        return next_version(version, self.pair.read(), done.chosen)

    def _measure(self, public: PublicData, settings: Alignment, round: int) -> dict[str, Activity]:  # noqa: A002
        """How much neurons are used on public data; empty where all are refitted."""
        if settings.share == 1:
            return {}
        batches = public.batches(
            settings.batch_size, steps=ACTIVITY_BATCHES, seed=self.seed, purpose="activity", round=round
        )
        return measure_activity(self.server_tunable.model, self.pair.compressed, batches)
