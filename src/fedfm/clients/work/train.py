"""Work ``train``: local steps on a client's examples; several clients in one pass where they can share it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fedfm.clients.contract import Reception
from fedfm.clients.objective import BatchGradient, Objective, StepGradient
from fedfm.clients.optimizer import LocalOptimizer
from fedfm.clients.private_gradient import PrivateGradient
from fedfm.clients.profile import phase, profiling
from fedfm.clients.recompute import recomputing
from fedfm.clients.rules import At, ClientRound, Groups, LocalResult, LocalRule
from fedfm.clients.settings import LocalSettings
from fedfm.clients.stacked import Stacking, StackMember, train_stacked, why_alone, why_own_steps
from fedfm.clients.steps import Losses, read_ahead
from fedfm.clients.work.base import Answer, ClientTask, failed
from fedfm.data.batches import evaluation_batches
from fedfm.models.stacked import FrozenPrefix
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.printable import error_line
from fedfm.privacy import PrivateSteps
from fedfm.tasks.base import TARGETS, Batch, Task
from fedfm.updates import Done, Payload
from fedfm.updates.payload import ACTIVITY

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

PREFIX_BATCH = 32
"""Examples of a client that pass its model's frozen first blocks at once."""

Trained = tuple[LocalResult, Params]
"""What local steps did, and the tunable after them."""

_log = logging.getLogger(__name__)


def train(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Trains clients in one pass; where that fails, one by one, so that the failure is that of the client at fault."""
    problem = None
    counts = any(task.instruction.facts.count_activity for task in tasks)
    if worker.stacking is not None and not counts and share_passes(worker):
        booked = worker.profile.record() if worker.profile else None
        try:
            with profiling(worker.profile):
                answers = _together(worker, worker.stacking, tasks)
        except Exception as error:
            problem = error_line(error)
            if worker.profile is not None and booked is not None:
                worker.profile.go_back_to(booked)
        else:
            yield from answers
            return
    failures = 0
    for task in tasks:
        try:
            with profiling(worker.profile):
                answer = _alone(worker, task)
        except Exception as error:  # one client's failure, whatever it is, must not end the others' round
            answer = Answer(task.client, failed(task.client, error))
            failures += 1
        yield answer
    if problem is not None and not failures:
        _log.warning("%d clients could only be trained one by one, not together: %s", len(tasks), problem)


def share_passes(worker: Worker) -> bool:
    """Whether the clients of a worker that stacks them may train in one pass."""
    rules = [rule for rule in (worker.contract.rule, worker.contract.rule.personal_rule) if rule is not None]
    apart = any(why_alone(worker.task, rule) for rule in rules) or why_own_steps(worker.local) is not None
    return worker.promise is None and not apart


def _together(worker: Worker, stacking: Stacking, tasks: Sequence[ClientTask]) -> list[Answer]:
    """The answers of clients that share a pass."""
    receptions = [worker.receive(task) for task in tasks]
    trained = _pass(worker, stacking, tasks, receptions)
    copies: list[Trained | None] = [None] * len(tasks)
    if (personal := _for_copies(worker)) is not None:
        copies[:] = _pass(personal, stacking, tasks, _copy_receptions(worker, tasks, receptions))
    return [
        replace(_finish(worker, task, received, *of_client, copy=copy), shared=len(tasks))
        for task, received, of_client, copy in zip(tasks, receptions, trained, copies, strict=True)
    ]


def _pass(
    worker: Worker, stacking: Stacking, tasks: Sequence[ClientTask], receptions: Sequence[Reception]
) -> list[Trained]:
    """Trains clients in one pass."""
    members = []
    for task, received in zip(tasks, receptions, strict=True):
        client, number = task.client, task.instruction.round
        indices = worker.trained(client, number)
        member = stack_member(worker, stacking, client, indices, received.at, number, trains=received.trains)
        members.append(member)
    with worker.watch.over(worker.tunable):
        return train_stacked(
            worker.tunable, stacking, worker.task, members, worker.local, worker.contract.rule, device=worker.device
        )


def stack_member(
    worker: Worker,
    stacking: Stacking,
    client: str,
    indices: np.ndarray,
    at: ClientRound,
    number: int,
    *,
    trains: Mapping[str, Tensor] | None = None,
    max_steps: int | None = None,
) -> StackMember:
    """A client of a pass, with the batches that `Worker.fit` would train it on.

    Args:
        worker: has the examples.
        stacking: how the pass is shared.
        client: key of the random choices.
        indices: into the worker's examples.
        at: what it starts from.
        number: of the round, a key of the random choices.
        trains: the coordinates that change, as `train_locally`.
        max_steps: in place of the recipe's ``local`` budget.
    """
    plan = worker.plan(len(indices), client, number, max_steps)
    batches = worker.batches(indices, plan, client, number)
    with phase("forward"):
        table = _table(worker, stacking.prefix, indices) if stacking.prefix else {}
    return StackMember(at, [indices[step] for step in plan], batches, table, trains)


def _for_copies(worker: Worker) -> Worker | None:
    """The worker that trains the copies that clients keep for themselves; None where they have none.

    What leaves a client does not depend on its copy, so that no promise is kept about its steps.
    """
    rule = worker.contract.rule.personal_rule
    return None if rule is None else replace(worker, contract=replace(worker.contract, rule=rule), promise=None)


def _copy_receptions(worker: Worker, tasks: Sequence[ClientTask], receptions: Sequence[Reception]) -> list[Reception]:
    """What the training of clients' copies starts from."""
    return [
        replace(received, at=worker.contract.copy_round(received.at, task.own))
        for task, received in zip(tasks, receptions, strict=True)
    ]


def _alone(worker: Worker, task: ClientTask) -> Answer:
    """The answer of one client, trained in a plain loop."""
    received, number = worker.receive(task), task.instruction.round
    worker.tunable.write(received.at.received)
    with ExitStack() as stack:
        counts = None
        if task.instruction.facts.count_activity:
            counts = stack.enter_context(worker.copy.counting(worker.tunable))
        indices = worker.trained(task.client, number)
        stack.enter_context(worker.watch.over(worker.tunable))
        result = worker.fit(indices, received.at, client=task.client, round=number, trains=received.trains)
        trained, copy = worker.tunable.read(), None
        activity = None if counts is None else counts()
        if (personal := _for_copies(worker)) is not None:
            (again,) = _copy_receptions(worker, [task], [received])
            worker.tunable.write(again.at.begin)
            done = personal.fit(indices, again.at, client=task.client, round=number, trains=again.trains)
            copy = done, worker.tunable.read()
    return _finish(worker, task, received, result, trained, activity, copy)


@dataclass(frozen=True)
class PrivateTraining:
    """How local steps are made private.

    Attributes:
        steps: what they keep to.
        together: whether the examples of a batch share a pass.
    """

    steps: PrivateSteps
    together: bool = True


def train_locally(
    tunable: Tunable,
    task: Task,
    batches: Iterable[Batch],
    local: LocalSettings,
    rule: LocalRule,
    at: ClientRound,
    *,
    trains: Mapping[str, Tensor] | None = None,
    rates: Sequence[float] | None = None,
    private: PrivateTraining | None = None,
) -> LocalResult:
    """Takes one step a batch from the tunable's present value, in place.

    The gradient of the batch's mean loss a prediction goes through the algorithm's rule, then clipping, then the
    optimiser. Where nothing is predicted, it is zero. That of a private step is clipped for each example and has noise
    before all of this, which is then post-processing.

    Args:
        tunable: holds ``at.begin``, or ``at.received`` where that is empty.
        task: the loss.
        batches: on the tunable's device; an empty one is ``{}``, as only a private step may get.
        local: how to train.
        rule: the algorithm's side at the client.
        at: what the round starts from.
        trains: name → bool tensor, the coordinates that change; of tensors that are absent, and for None, all.
        rates: learning rate of each step; None: ``at.lr`` in all.
        private: how steps are made private; None: they are not.
    """
    parameters = tunable.parameters
    begin = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    device = next(iter(parameters.values())).device
    received = {name: at.received[name].to(device) for name in begin} if at.begin else begin
    sent, own = _moved(at.sent, device), _moved(at.own, device)
    masks = {name: mask.to(device) for name, mask in (trains or {}).items()}
    still = [parameters[name] for name, mask in masks.items() if not mask.any()]
    moving = {name: parameter for name, parameter in parameters.items() if name not in masks or masks[name].any()}
    optimizer = LocalOptimizer(tunable, moving, local, at.moments)
    objective = Objective.of(tunable, task, rule, received, own, sent=sent, dropout=local.dropout)
    losses = Losses()
    tunable.train(dropout=local.dropout)
    with without_gradients(still), recomputing(tunable, local.recompute):
        gradient_of: StepGradient = BatchGradient(objective)
        if private is not None:
            gradient_of = PrivateGradient(objective, private.steps, masks, together=private.together)
        for step, batch in enumerate(read_ahead(batches)):
            lr = at.lr if rates is None else rates[step]
            optimizer.zero_grad()
            taken = gradient_of(batch)
            if rule.penalises and (penalty := rule.penalty(parameters, masks)).requires_grad:
                with phase("backward"):
                    penalty.backward()  # type: ignore[no-untyped-call]
            with phase("optimizer"):
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        if parameter.grad is None:
                            continue
                        here = At(
                            received=received[name],
                            sent={group: params[name] for group, params in sent.items()},
                            own={group: params[name] for group, params in own.items()},
                            step=step,
                            lr=lr,
                        )
                        gradient = parameter.grad
                        if name not in at.personal:
                            gradient = rule.gradient(gradient, parameter, here)
                        parameter.grad = gradient * masks[name] if name in masks else gradient
                if local.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(parameters.values(), local.max_grad_norm)
                optimizer.step(lr)
                with torch.no_grad():
                    for name, mask in masks.items():  # weight decay has moved what is not trained as well
                        parameters[name].copy_(parameters[name].where(mask, begin[name]))
            losses.add(*taken)
    tunable.eval()
    return replace(losses.result(), moments=optimizer.moments() if local.keep_optimizer else {})


@contextmanager
def without_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Needs no gradient of some parameters, for a block: the backward pass then ends at the lowest of the others."""
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()


def _moved(groups: Groups, device: torch.device) -> dict[str, Params]:
    return {group: {name: tensor.to(device) for name, tensor in params.items()} for group, params in groups.items()}


def _finish(
    worker: Worker,
    task: ClientTask,
    received: Reception,
    result: LocalResult,
    trained: Params,
    activity: Params | None = None,
    copy: Trained | None = None,
) -> Answer:
    number = task.instruction.round
    folded = worker.tunable.folded(trained)
    kept = None if copy is None else worker.tunable.folded(copy[1])
    groups, own = worker.contract.finish(task.client, number, received, folded, result, task.own, kept)
    facts = Done(
        client=task.client,
        examples=len(worker.trained(task.client, number)),
        steps=result.steps,
        samples=result.samples + (0 if copy is None else copy[0].samples),
        predictions=result.predictions,
        loss=result.loss if np.isfinite(result.loss) else None,
        proxy_version=worker.version,
    )
    if activity:
        groups = {**groups, ACTIVITY: activity}
    return Answer(task.client, Payload(number, task.instruction.base, facts, groups), own)


def _table(worker: Worker, prefix: FrozenPrefix, indices: np.ndarray) -> Mapping[int, Tensor]:
    """Outputs of the frozen prefix for a client's examples, batched by length."""
    worker.tunable.eval()
    chunks = evaluation_batches(worker.examples.lengths[indices], PREFIX_BATCH)
    collate = worker.task.collate(worker.processor, 0)

    def batches() -> Iterator[Batch]:
        for chunk in chunks:
            batch = collate(worker.examples.take(indices[chunk]))
            yield {name: tensor.to(worker.device) for name, tensor in batch.items() if name not in TARGETS}

    return prefix.of_client([int(number) for chunk in chunks for number in indices[chunk]], batches)
