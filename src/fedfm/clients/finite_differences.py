"""What the kinds of work of zeroth-order methods share: losses without gradients, and the walk to the present model.

Zeroth-order training only runs the model forwards, so a client needs the memory of inference: the weights, the
activations of one layer at a time, and the signs of one tensor. The tunable is moved in place and moved back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedfm.clients.directions import Direction, Leg, shift, walk
from fedfm.clients.profile import phase
from fedfm.clients.rules import LocalResult
from fedfm.clients.steps import Losses
from fedfm.models.tunable import Tunable
from fedfm.tasks.base import Batch, Task
from fedfm.updates import Done, Instruction, MessageError
from fedfm.wire import on_disk

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

EPSILON = "epsilon"
"""Fact of an instruction: how far the model is moved along a direction to measure a slope, ε."""

_WALKED = "walked"
"""Name of the last walk in a worker's memo."""


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch.

    Attributes:
        total: summed over predictions.
        predictions: how many.
        samples: examples in the batch.
    """

    total: float
    predictions: int
    samples: int

    @property
    def mean(self) -> float:
        """Mean loss a prediction; 0 where nothing is predicted."""
        return self.total / max(self.predictions, 1)


@dataclass(frozen=True)
class SlopeProbe:
    """Measures losses of a tunable that is moved along directions.

    Attributes:
        tunable: moved in place.
        task: the loss.
        epsilon: how far to move for a slope, ε.
        losses: of a client's steps.
    """

    tunable: Tunable
    task: Task
    epsilon: float
    losses: Losses = field(default_factory=Losses)

    @torch.no_grad()
    def loss(self, batch: Batch) -> BatchLoss:
        """The loss of a batch where the tunable is."""
        with phase("forward"):
            totals, counts = self.task.losses(self.task.outputs(self.tunable.model, batch), batch)
            return BatchLoss(totals.double().sum().item(), int(counts.sum().item()), len(counts))

    def shift(self, direction: Direction, length: float) -> None:
        """W ← w + length·z.

        Raises:
            FloatingPointError: the length is not finite.
        """
        if not math.isfinite(length):
            raise FloatingPointError("a slope of the loss is not finite; try a lower local.learning_rate")
        with phase("optimizer"):
            shift(self.tunable.parameters, direction, length)

    def central(self, batch: Batch, direction: Direction) -> float:
        """The slope (L(w + εz) − L(w − εz)) / 2ε; leaves the tunable at w − εz."""
        self.shift(direction, self.epsilon)
        above = self.loss(batch)
        self.shift(direction, -2 * self.epsilon)
        below = self.loss(batch)
        self.losses.add((above.total + below.total) / 2, above.predictions, above.samples)
        return (above.mean - below.mean) / (2 * self.epsilon)

    def forward(self, batch: Batch, direction: Direction, here: BatchLoss) -> float:
        """The slope (L(w + εz) − L(w)) / ε, with the loss L(w); leaves the tunable at w + εz."""
        self.shift(direction, self.epsilon)
        return (self.loss(batch).mean - here.mean) / self.epsilon


def probe_of(worker: Worker, instruction: Instruction) -> SlopeProbe:
    """What measures losses for a client.

    Raises:
        MessageError: the instruction does not say ε.
    """
    epsilon = instruction.facts.extra.get(EPSILON, 0.0)
    if epsilon <= 0:
        raise MessageError(f"fact `{EPSILON}` of the instruction must be above 0, not {epsilon:g}")
    worker.tunable.eval()
    return SlopeProbe(worker.tunable, worker.task, epsilon)


def walk_to(worker: Worker, legs: Sequence[Leg]) -> None:
    """Writes w to the tunable: the values before round 1, and then every leg.

    The last walk stays on disk, so that a client that goes the same way, or further, need not start again; the bits are
    the same.
    """
    way, start = [(leg.base, leg.lengths.numpy().tobytes()) for leg in legs], worker.contract.start
    last: _Walked | None = worker.memo.get(_WALKED)
    known = 0
    if last is not None and last.start is start and last.way == way[: len(last.way)]:
        known = len(last.way)
    begin = start if last is None or not known else last.values
    worker.tunable.fill(walk(begin, legs[known:]) if legs[known:] else begin.items())
    if legs[known:]:
        values = on_disk({name: parameter.detach() for name, parameter in worker.tunable.parameters.items()})
        worker.memo[_WALKED] = _Walked(start, way, values)


@dataclass(frozen=True)
class _Walked:
    """Where a walk from ``start`` has led: the legs that were gone, and the values after them, on disk."""

    start: Mapping[str, Tensor]
    way: list[tuple[int, bytes]]
    values: Mapping[str, Tensor]


def facts_of(worker: Worker, client: str, number: int, result: LocalResult) -> Done:
    """What a client reports of its work in a round."""
    return Done(
        client=client,
        examples=len(worker.trained(client, number)),
        steps=result.steps,
        samples=result.samples,
        predictions=result.predictions,
        loss=result.loss if math.isfinite(result.loss) else None,
        proxy_version=worker.version,
    )
