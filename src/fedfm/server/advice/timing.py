"""A few local steps, timed: how long a step takes, and how far it moves the tunable."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

import torch

from fedfm.clients.optimizer import LocalOptimizer
from fedfm.clients.recompute import recomputing
from fedfm.params import count
from fedfm.server.experiment.build import Experiment

STEPS = 4
"""Steps that are timed, after a first one that is not."""


@dataclass(frozen=True)
class Timing:
    """Means over the timed steps.

    Attributes:
        seconds_a_step: by the clock, on this machine, with the threads of the recipe.
        moved_a_step: root mean square of the change of the tunable's values, over the number of steps.
        steps: how many were timed.
    """

    seconds_a_step: float
    moved_a_step: float
    steps: int


def time_steps(experiment: Experiment) -> Timing | None:
    """Takes local steps of the largest client in a plain loop and puts the tunable back; None without simulated data.

    The algorithm's own terms of the gradient and the loss are left out. Clients that share passes are faster.
    """
    worker = None if experiment.worker is None else experiment.worker.own
    if worker is None:
        return None
    client = max(worker.clients, key=lambda name: (len(worker.clients[name]), name))
    indices, local, tunable = worker.clients[client], worker.local, worker.tunable
    plan = worker.plan(len(indices), client, 1, STEPS + 1)
    batches = list(islice(worker.on_device(worker.batches(indices, plan, client, 1)), STEPS + 1))
    tunable.write(experiment.start)
    optimizer = LocalOptimizer(tunable, tunable.parameters, local)
    tunable.train(dropout=local.dropout)
    seconds = 0.0
    with recomputing(tunable, local.recompute):
        for number, batch in enumerate(batches):
            begun = time.perf_counter()
            optimizer.zero_grad()
            totals, counts = worker.task.losses(worker.task.outputs(tunable.model, batch), batch)
            (totals.sum() / counts.sum().clamp(min=1)).backward()  # type: ignore[no-untyped-call]
            if local.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(tunable.parameters.values(), local.max_grad_norm)
            optimizer.step(local.learning_rate)
            if worker.device.type == "cuda":
                torch.cuda.synchronize(worker.device)
            seconds += time.perf_counter() - begun if number else 0.0
    tunable.eval()
    optimizer.zero_grad()
    after, start = tunable.read(), experiment.start
    squares = sum(float(((after[name] - start[name]) ** 2).sum()) for name in start)
    tunable.write(start)
    timed = max(1, len(batches) - 1)
    return Timing(seconds / timed, (squares / count(start)) ** 0.5 / len(batches), timed)
