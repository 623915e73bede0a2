"""Work ``seed-pool``: zeroth-order steps along directions of a pool that all devices know (FedKSeed, arXiv:2312.06353).

Algorithm 1 of Qin et al., lines 6 to 14. A client walks to the present model, w = w₀ − Σ_s a_s·z_s, and then takes one
step a batch, each along a direction of the pool that it draws:

    ρ = (L(w + εz_s) − L(w − εz_s)) / 2ε,   w ← w − η·ρ·z_s

It returns the sum of the ρ of each direction. Neither the tunable nor a gradient exists anywhere on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from fedfm.clients.directions import Leg, direction_base
from fedfm.clients.finite_differences import facts_of, probe_of, walk_to
from fedfm.clients.steps import read_ahead
from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.randomness import numpy_generator
from fedfm.updates import MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

SEED_POOL, POOL, COEFFICIENTS, SLOPES = "seed-pool", "pool", "a", "b"
"""The name of this kind of work, its group, and its tensors: float32 [K], down and up, by the letters of the method."""


def seed_pool(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Lets clients take their steps one by one."""
    return one_by_one(worker, tasks, _steps, profiled=True)


def _steps(worker: Worker, task: ClientTask) -> Answer:
    instruction, client, number = task.instruction, task.client, task.instruction.round
    worker.update_copy(instruction)
    coefficients = instruction.groups.get(POOL, {}).get(COEFFICIENTS)
    if coefficients is None or coefficients.ndim != 1 or coefficients.dtype != torch.float32 or not len(coefficients):
        raise MessageError(f"group `{POOL}` of the instruction must have one float32 coefficient for each direction")
    base, rate = direction_base(worker.seed), instruction.facts.learning_rate
    walk_to(worker, [Leg(base, coefficients)])
    probe = probe_of(worker, instruction)
    indices = worker.trained(client, number)
    plan = worker.plan(len(indices), client, number)
    drawn = numpy_generator(worker.seed, "pool", round=number, client=client).integers(
        len(coefficients), size=len(plan)
    )
    batches = read_ahead(worker.on_device(worker.batches(indices, plan, client, number)))
    slopes = torch.zeros(len(coefficients), dtype=torch.float64)
    for batch, place in zip(batches, drawn.tolist(), strict=True):
        slope = probe.central(batch, (base, place))
        probe.shift((base, place), probe.epsilon - rate * slope)  # back from w − εz, and the step
        slopes[place] += slope
    groups = {POOL: {SLOPES: slopes.float()}}
    facts = facts_of(worker, client, number, probe.losses.result())
    return Answer(client, Payload(number, instruction.base, facts, groups, work=SEED_POOL))
