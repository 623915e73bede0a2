"""Work ``slopes``: the slopes of a client's loss along directions of the round (DeComFL, arXiv:2405.15861).

Algorithms 2 and 3 of Li et al. A client first replays the rounds that it has missed: it keeps the lengths of all steps
that the server has taken so far, and gets those that it lacks. With the directions z_{k,p} of the round,

    g_{k,p} = (L_k(w + εz_{k,p}) − L_k(w)) / ε,   or (L_k(w + εz_{k,p}) − L_k(w − εz_{k,p})) / 2ε
    w ← w − η/P · Σ_p g_{k,p}·z_{k,p}

for k in 1 … K local steps, one batch each. It returns all g, and leaves w: the next round starts from the server's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedfm.clients.directions import Leg, direction_base
from fedfm.clients.finite_differences import SlopeProbe, facts_of, probe_of, walk_to
from fedfm.clients.steps import read_ahead
from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.tasks.base import Batch
from fedfm.updates import Instruction, MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

MEASURE_SLOPES, HISTORY, LENGTHS, MEASURED, VALUES = "slopes", "history", "lengths", "slopes", "values"
"""The name of this kind of work; group and tensor of a message, float32 [rounds, K, P]; of an answer, [K, P]."""

STEPS, PERTURBATIONS, CENTRAL = "steps", "perturbations", "central"
"""Facts of an instruction: K, P, and whether slopes are central differences (0 or 1)."""

KEPT = f"replay/{HISTORY}"
"""Group of a client's state: the lengths of all rounds before the last in which it took part."""

MOST_SLOPES = 2**20
"""More slopes a round, K·P, are not measured."""


def slopes(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Lets clients measure one by one."""
    return one_by_one(worker, tasks, _answer, profiled=True)


def _answer(worker: Worker, task: ClientTask) -> Answer:
    instruction, client, number = task.instruction, task.client, task.instruction.round
    worker.update_copy(instruction)
    steps, perturbations = _counts(instruction)
    history = _history(task, steps, perturbations)
    seed, rate = worker.seed, instruction.facts.learning_rate
    rounds = enumerate(history.flatten(1), 1)
    walk_to(worker, [Leg(direction_base(seed, round=past), lengths) for past, lengths in rounds])
    probe, central = probe_of(worker, instruction), bool(instruction.facts.extra.get(CENTRAL))
    indices, base = worker.trained(client, number), direction_base(seed, round=number)
    plan = worker.plan(len(indices), client, number, steps)
    batches = read_ahead(worker.on_device(worker.batches(indices, plan, client, number)))
    found = torch.zeros(steps, perturbations)
    for step, batch in enumerate(batches):
        first = step * perturbations
        found[step] = torch.tensor(_along(probe, batch, base, first, perturbations, central=central))
        for place, slope in enumerate(found[step].tolist()):
            probe.shift((base, first + place), -rate / perturbations * slope)
    groups = {MEASURED: {VALUES: found}}
    facts = facts_of(worker, client, number, probe.losses.result())
    own = {KEPT: {LENGTHS: history}}
    return Answer(client, Payload(number, instruction.base, facts, groups, work=MEASURE_SLOPES), own)


def _along(probe: SlopeProbe, batch: Batch, base: int, first: int, count: int, *, central: bool) -> list[float]:
    """Slopes along ``count`` directions, all at w."""
    found = []
    here = None if central else probe.loss(batch)
    if here is not None:
        probe.losses.add(here.total, here.predictions, here.samples)
    for place in range(first, first + count):
        direction = (base, place)
        if here is None:
            found.append(probe.central(batch, direction))
            probe.shift(direction, probe.epsilon)
        else:
            found.append(probe.forward(batch, direction, here))
            probe.shift(direction, -probe.epsilon)
    return found


def _counts(instruction: Instruction) -> tuple[int, int]:
    """K and P.

    Raises:
        MessageError: they are not whole numbers, or too many.
    """
    steps, perturbations = (instruction.facts.extra.get(name, 0.0) for name in (STEPS, PERTURBATIONS))
    if not (steps.is_integer() and perturbations.is_integer() and steps >= 1 and perturbations >= 1):
        raise MessageError(f"facts `{STEPS}` and `{PERTURBATIONS}` of the instruction must be whole numbers from 1")
    if steps * perturbations > MOST_SLOPES:
        raise MessageError(f"{steps * perturbations:.0f} slopes a round are more than {MOST_SLOPES}")
    return int(steps), int(perturbations)


def _history(task: ClientTask, steps: int, perturbations: int) -> Tensor:
    """Lengths of all steps before this round: what the client keeps, and what has come.

    Raises:
        MessageError: they are not those of every round before.
    """
    number = task.instruction.round
    nothing = torch.zeros(0, steps, perturbations)
    kept = task.own.get(KEPT, {}).get(LENGTHS, nothing)
    came = task.instruction.groups.get(HISTORY, {}).get(LENGTHS, nothing)
    if came.shape[1:] != nothing.shape[1:] or came.dtype != nothing.dtype or len(kept) + len(came) != number - 1:
        raise MessageError(
            f"group `{HISTORY}` of the instruction must have the lengths of rounds {len(kept) + 1} to {number - 1}, "
            f"float32 [{max(number - 1 - len(kept), 0)}, {steps}, {perturbations}], not {list(came.shape)}"
        )
    return torch.cat([kept, came])
