"""What an audit is: a measurement of what a finished run gives away, made from losses of its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedfm.audit.gradients import Victim
from fedfm.audit.settings import AuditSettings
from fedfm.errors import FedfmError


class NotMeasuredError(FedfmError):
    """An audit does not apply to a run; the message says why."""


@dataclass(frozen=True)
class AuditedLosses:
    """Loss of the model on N examples, mean over an example's predictions.

    Attributes:
        start: float64 ``[N]``, before round 1.
        final: float64 ``[N]``, of the delivered model.
        clients: str objects ``[N]``: who holds each example; empty text for examples of the server.
    """

    start: np.ndarray
    final: np.ndarray
    clients: np.ndarray

    def __len__(self) -> int:
        return len(self.final)

    @property
    def fall(self) -> np.ndarray:
        """By how much the run has lowered the loss, ``[N]``."""
        fallen: np.ndarray = self.start - self.final
        return fallen

    def at(self, chosen: np.ndarray) -> AuditedLosses:
        """Those at some places, given as booleans or indices."""
        return AuditedLosses(self.start[chosen], self.final[chosen], self.clients[chosen])


@dataclass(frozen=True)
class CanaryLosses:
    """What the model makes of the canaries.

    Attributes:
        settings: of the recipe.
        planted: bool ``[N]``, the coins.
        tossed: losses of the N canaries with a coin.
        references: losses of those that were never planted.
    """

    settings: AuditSettings
    planted: np.ndarray
    tossed: AuditedLosses
    references: AuditedLosses


@dataclass(frozen=True)
class Audited:
    """What audits know of a finished run.

    Attributes:
        members: training examples of clients that took part.
        others: examples that nobody trained on: the server's test and validation data, and what clients held out.
        canaries: None where none were planted.
        promise: ``privacy`` of ``summary.json``; None where nothing is promised.
        proxy: ``proxy`` of ``summary.json``; None without a proxy.
        victim: what a gradient inversion needs; a text says why it cannot be made.
        seed: of the run.
    """

    members: AuditedLosses
    others: AuditedLosses
    canaries: CanaryLosses | None
    promise: Mapping[str, Any] | None
    proxy: Mapping[str, Any] | None
    victim: Victim | str
    seed: int

    def planted(self) -> CanaryLosses:
        """The canaries.

        Raises:
            NotMeasuredError: the run has none.
        """
        if self.canaries is None:
            raise NotMeasuredError("no canaries were planted; set audit.canaries in the recipe and run it again")
        return self.canaries


class Audit(ABC):
    """One attack, and the figures of its success."""

    @abstractmethod
    def measure(self, run: Audited) -> dict[str, Any]:
        """The figures, as JSON.

        Raises:
            NotMeasuredError: it does not apply to the run.
        """
