"""Work ``probe``: for each layer, the squared norm of a client's gradient at the tunable of the message.

The answer has one or two numbers a layer (group ``probe``), over the first batches of the client's local training,
without dropout. Nothing is trained, and nothing changes at the client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.models.tunable_layers import layers_of
from fedfm.updates import Done, MessageError, Payload
from fedfm.views.selection import GRADIENT, PROBE, SNR

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

LEAST_VARIANCE = 1e-20
"""Added to variances: a parameter without a gradient has a signal-to-noise ratio of 0, not of 0/0."""


def probe(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Measures clients one by one."""
    return one_by_one(worker, tasks, _probe)


def _probe(worker: Worker, task: ClientTask) -> Answer:
    number, client, probing = task.instruction.round, task.client, worker.probing
    if probing is None:
        raise MessageError("the recipe's `select` does not ask for measurements")
    received = worker.receive(task)
    worker.tunable.write(received.at.received)
    layers = layers_of(worker.tunable, worker.copy.model.family, without=worker.contract.personal)
    names = [name for tensors in layers.tensors for name in tensors]
    gradients = Gradients(names, snr=probing.snr)
    indices = worker.trained(client, number)
    plan = worker.plan(len(indices), client, number, probing.batches)
    worker.tunable.eval()
    parameters = [worker.tunable.parameters[name] for name in names]
    for batch in worker.on_device(worker.batches(indices, plan, client, number)):
        totals, counts = worker.task.losses(worker.task.outputs(worker.tunable.model, batch), batch)
        predictions = counts.sum()
        found = torch.autograd.grad(totals.sum() / predictions.clamp(min=1), parameters, allow_unused=True)
        gradients.add(found, float(predictions))
    group = {GRADIENT: torch.tensor([gradients.norm(tensors) for tensors in layers.tensors])}
    if probing.snr:
        group[SNR] = torch.tensor([gradients.ratio(tensors) for tensors in layers.tensors])
    facts = Done(client=client, examples=len(indices), proxy_version=worker.version)
    return Answer(task.client, Payload(number, task.instruction.base, facts, {PROBE: group}, work=PROBE))


class Gradients:
    """Gradients of several batches: of the mean loss a prediction over all, and how they differ between batches."""

    def __init__(self, names: Sequence[str], *, snr: bool) -> None:
        """No batch yet.

        Args:
            names: of the parameters.
            snr: whether to keep what `ratio` needs, two more values a parameter.
        """
        self._names, self._snr = names, snr
        self._mean: dict[str, Tensor] = {}
        self._sum: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._predictions = 0.0
        self._batches = 0

    def add(self, gradients: Sequence[Tensor | None], predictions: float) -> None:
        """One batch: gradients of its mean loss a prediction, None where the loss does not depend on a parameter."""
        self._batches += 1
        self._predictions += predictions
        for name, gradient in zip(self._names, gradients, strict=True):
            if gradient is None:
                continue
            g = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            _accumulate(self._mean, name, g * predictions)
            if self._snr:
                _accumulate(self._sum, name, g.double())
                _accumulate(self._squares, name, g.double() ** 2)

    def norm(self, names: Sequence[str]) -> float:
        """‖g‖² over some parameters, g of the mean loss a prediction."""
        squares = [float(self._mean[name].double().square().sum()) for name in names if name in self._mean]
        return sum(squares) / max(self._predictions, 1.0) ** 2

    def ratio(self, names: Sequence[str]) -> float:
        """The mean over some parameters of E[g]² / Var[g], over batches; Var without bias.

        Raises:
            ValueError: there are fewer than two batches.
        """
        if self._batches < 2:
            raise ValueError("the signal-to-noise ratio of a gradient needs two batches")
        total, count = 0.0, 0
        for name in names:
            if name in self._sum:
                mean = self._sum[name] / self._batches
                spread = self._squares[name] / self._batches - mean**2
                variance = spread.clamp(min=0) * self._batches / (self._batches - 1)
                total += float((mean**2 / (variance + LEAST_VARIANCE)).sum())
                count += mean.numel()
        return total / max(count, 1)


def _accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
