"""What the local steps of one client and of several in one pass share: losses, batches in time, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fedfm.clients.profile import phase
from fedfm.clients.rules import LocalResult
from fedfm.clients.settings import LocalSettings
from fedfm.tasks.base import Batch


class Losses:
    """A client's losses as its steps are taken."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._predictions = 0
        self._samples = 0

    def add(self, loss: float, predictions: float, samples: int) -> None:
        """One step: its summed loss, over how many predictions, in how many examples."""
        self._losses.append(loss)
        self._predictions += int(predictions)
        self._samples += samples

    def result(self) -> LocalResult:
        """All of them."""
        mean = math.fsum(self._losses) / self._predictions if self._predictions else math.nan
        return LocalResult(len(self._losses), self._samples, self._predictions, mean)


def read_ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Passes batches on, and records the time that making them takes as phase ``data``."""
    waiting = iter(batches)
    while True:
        with phase("data"):
            batch = next(waiting, None)
        if batch is None:
            return
        yield batch


def make_optimizer(parameters: list[nn.Parameter], local: LocalSettings, learning_rate: float) -> Optimizer:
    """The recipe's local optimiser over ``parameters``."""
    if local.optimizer == "sgd":
        return SGD(parameters, lr=learning_rate, momentum=local.momentum, weight_decay=local.weight_decay)
    return AdamW(parameters, lr=learning_rate, weight_decay=local.weight_decay)
