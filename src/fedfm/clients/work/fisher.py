"""Work ``fisher``: the diagonal of a client's Fisher information at the tunable of the message, on a few examples.

The answer has one number a parameter (group ``fisher``): the mean over examples of the squared gradient of log p(y|x),
with y drawn from the model's own p(·|x). Each example has a pass of its own, without dropout. Nothing is trained, and
nothing changes at the client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.data.examples import IGNORED
from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.updates import Done, MessageError, Payload
from fedfm.updates.payload import FISHER

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

SAMPLES = "samples"
"""Fact of a message: examples to use, at most."""


def fisher(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Measures clients one by one."""
    return one_by_one(worker, tasks, _fisher)


def _fisher(worker: Worker, task: ClientTask) -> Answer:
    number, client = task.instruction.round, task.client
    most = int(task.instruction.facts.extra.get(SAMPLES, 0))
    if most < 1:
        raise MessageError(f"the fact `{SAMPLES}` of the instruction must be 1 or more")
    received = worker.receive(task)
    worker.tunable.write(received.at.received)
    worker.tunable.eval()
    indices = worker.trained(client, number)
    generator = numpy_generator(worker.seed, FISHER, round=number, client=client)
    chosen = generator.permutation(indices)[:most]
    group = squared_gradients(worker, chosen, generator, client, number)
    facts = Done(client=client, examples=len(indices), proxy_version=worker.version)
    return Answer(task.client, Payload(number, task.instruction.base, facts, {FISHER: group}, work=FISHER))


def squared_gradients(
    worker: Worker, chosen: np.ndarray, generator: np.random.Generator, client: str, number: int
) -> Params:
    """The mean over examples of the squared gradient of log p(y|x), y ∼ p(·|x), by name.

    Args:
        worker: its tunable has the values at which gradients are taken.
        chosen: indices of the examples.
        generator: draws the labels.
        client: key of the batches.
        number: round, key of the batches.
    """
    parameters = worker.tunable.parameters
    names = list(parameters)
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    plan = [np.array([place]) for place in range(len(chosen))]
    for batch in worker.on_device(worker.batches(chosen, plan, client, number)):
        outputs = worker.task.outputs(worker.tunable.model, batch)
        chances = worker.task.choices(outputs.detach(), batch)
        drawn = {**batch, "labels": sampled(chances, batch["labels"], generator)}
        loss, _ = worker.task.losses(outputs, drawn)
        found = torch.autograd.grad(loss.sum(), [parameters[name] for name in names], allow_unused=True)
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                sums[name] += gradient.float() ** 2
    return {name: (total / max(len(chosen), 1)).to(parameters[name].dtype).cpu() for name, total in sums.items()}


def sampled(logits: Tensor, labels: Tensor, generator: np.random.Generator) -> Tensor:
    """A label for each that there is, drawn from the softmax of the logits.

    Args:
        logits: ``[..., C]``.
        labels: int64 ``[...]``; an ignored one stays ignored.
        generator: draws one number a label.
    """
    below = torch.from_numpy(generator.random(tuple(labels.shape))).to(logits.device)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    drawn = (cumulative < below.unsqueeze(-1)).sum(-1).clamp(max=logits.shape[-1] - 1)
    return torch.where(labels == IGNORED, labels, drawn)
