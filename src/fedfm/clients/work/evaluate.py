"""Work ``evaluate``: loss and metrics of what a client holds on the examples that it keeps from training.

An answer has means and counts, never rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.updates import Done, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

EVALUATE = "evaluate"
"""The name of this kind of work, for those that ask for it."""


def evaluate(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Evaluates clients one by one."""
    return one_by_one(worker, tasks, _evaluate)


def _evaluate(worker: Worker, task: ClientTask) -> Answer:
    indices = worker.holdout.get(task.client)
    if worker.evaluator is None or indices is None or not worker.evaluator.predicts(worker.examples, indices):
        raise ValueError("the client has no held-out examples in which anything is predicted (federation.holdout)")
    received = worker.receive(task)
    worker.tunable.write(worker.contract.served(received.at.received, task.own))
    scores = worker.evaluator(worker.examples, indices)
    finite = math.isfinite(scores["loss"])
    facts = Done(
        client=task.client,
        examples=len(indices),
        predictions=worker.evaluator.predictions(worker.examples, indices) if finite else 0,
        loss=scores["loss"] if finite else None,
        proxy_version=worker.version,
        extra={name: value for name, value in scores.items() if name != "loss" and math.isfinite(value)},
    )
    answer = Payload(task.instruction.round, task.instruction.base, facts, {}, work=EVALUATE)
    return Answer(task.client, answer)  # without state: what the client keeps stays as it is
