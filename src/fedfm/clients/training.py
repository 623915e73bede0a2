"""Local training of one client, on the one backbone in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fedfm.clients.profile import phase
from fedfm.clients.recompute import recomputing
from fedfm.clients.settings import LocalSettings
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Batch, Task

GradientRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(gradient, parameter, received) → the gradient to step along; see ``fedfm.algorithms.Algorithm.gradient``."""


@dataclass(frozen=True)
class LocalResult:
    """What local training did.

    Attributes:
        steps: optimiser steps.
        samples: examples that they processed.
        predictions: what was predicted in them: examples of a classification, tokens of language modelling.
        loss: mean training loss a prediction; not finite when training diverged, or when nothing was predicted.
    """

    steps: int
    samples: int
    predictions: int
    loss: float


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


def train_locally(
    tunable: Tunable,
    task: Task,
    batches: Iterable[Batch],
    local: LocalSettings,
    *,
    learning_rate: float,
    gradient_rule: GradientRule,
) -> LocalResult:
    """Takes one step a batch from the tunable's present value, in place, with a fresh optimiser.

    The gradient of the batch's mean loss a prediction goes through the algorithm's rule, then clipping, then the
    optimiser. Where nothing is predicted, it is zero.
    """
    parameters = tunable.parameters
    received = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = make_optimizer(list(parameters.values()), local, learning_rate)
    losses = Losses()
    tunable.train(dropout=local.dropout)
    with recomputing(tunable, local.recompute):
        for batch in read_ahead(batches):
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            with phase("forward"):
                totals, counts = task.losses(tunable.model(**inputs).logits, batch)
                loss, predictions = totals.sum(), counts.sum()
            with phase("backward"):
                optimizer.zero_grad()
                (loss / predictions.clamp(min=1)).backward()  # type: ignore[no-untyped-call]
            with phase("optimizer"):
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        if parameter.grad is not None:
                            parameter.grad = gradient_rule(parameter.grad, parameter, received[name])
                if local.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(parameters.values(), local.max_grad_norm)
                optimizer.step()
            losses.add(loss.item(), predictions.item(), len(counts))
    tunable.eval()
    return losses.result()


def read_ahead(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Batches as they come, their making booked as ``data``."""
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
        return SGD(parameters, lr=learning_rate, weight_decay=local.weight_decay)
    return AdamW(parameters, lr=learning_rate, weight_decay=local.weight_decay)
