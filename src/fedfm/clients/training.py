"""Local training of one client, on the one backbone in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from fedfm.clients.profile import phase
from fedfm.clients.recompute import recomputing
from fedfm.clients.rules import At, ClientRound, Groups, LocalResult, LocalRule
from fedfm.clients.settings import LocalSettings
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.tasks.base import Batch, Task


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
    rule: LocalRule,
    at: ClientRound,
    *,
    trains: Mapping[str, Tensor] | None = None,
) -> LocalResult:
    """Takes one step a batch from the tunable's present value, in place, with a fresh optimiser.

    The gradient of the batch's mean loss a prediction goes through the algorithm's rule, then clipping, then the
    optimiser. Where nothing is predicted, it is zero.

    Args:
        tunable: holds ``at.received``.
        task: the loss.
        batches: on the tunable's device.
        local: how to train.
        rule: the algorithm's side at the client.
        at: what the round starts from.
        trains: name → bool tensor, the coordinates that change; of tensors that are absent, and for None, all.
    """
    parameters = tunable.parameters
    received = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    device = next(iter(parameters.values())).device
    sent, own = _moved(at.sent, device), _moved(at.own, device)
    masks = {name: mask.to(device) for name, mask in (trains or {}).items()}
    optimizer = make_optimizer(list(parameters.values()), local, at.lr)
    teacher = _teacher(rule, received, own)
    losses = Losses()
    tunable.train(dropout=local.dropout)
    with recomputing(tunable, local.recompute):
        for step, batch in enumerate(read_ahead(batches)):
            with phase("forward"):
                outputs = task.outputs(tunable.model, batch)
                totals, counts = task.losses(outputs, batch)
                loss, predictions = totals.sum(), counts.sum()
                objective = loss
                if rule.extra_loss:
                    taught = None if teacher is None else _taught(tunable, task, teacher, batch, dropout=local.dropout)
                    objective = loss + rule.loss(outputs, batch, taught).sum()
            with phase("backward"):
                optimizer.zero_grad()
                (objective / predictions.clamp(min=1)).backward()  # type: ignore[no-untyped-call]
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
                            lr=at.lr,
                        )
                        gradient = parameter.grad
                        if name not in at.personal:
                            gradient = rule.gradient(gradient, parameter, here)
                        parameter.grad = gradient * masks[name] if name in masks else gradient
                if local.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(parameters.values(), local.max_grad_norm)
                optimizer.step()
                with torch.no_grad():
                    for name, mask in masks.items():  # weight decay has moved what is not trained as well
                        parameters[name].copy_(parameters[name].where(mask, received[name]))
            losses.add(loss.item(), predictions.item(), len(counts))
    tunable.eval()
    return losses.result()


def _moved(groups: Groups, device: torch.device) -> dict[str, Params]:
    return {group: {name: tensor.to(device) for name, tensor in params.items()} for group, params in groups.items()}


def _teacher(rule: LocalRule, received: Params, own: Groups) -> Params | None:
    """The tunable that gives the outputs for the rule's loss to compare with; None if the rule uses no teacher."""
    if rule.teacher == "none":
        return None
    return received if rule.teacher == "received" else dict(own["tunable"])


@torch.no_grad()
def _taught(tunable: Tunable, task: Task, values: Params, batch: Batch, *, dropout: bool) -> Tensor:
    """The task's outputs with other values of the tunable, without dropout; the present values come back."""
    parameters = tunable.parameters
    present = {name: parameter.data for name, parameter in parameters.items()}
    tunable.eval()
    try:
        for name, parameter in parameters.items():
            parameter.data = values[name]
        return task.outputs(tunable.model, batch)
    finally:
        for name, parameter in parameters.items():
            parameter.data = present[name]
        tunable.train(dropout=dropout)


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
        return SGD(parameters, lr=learning_rate, weight_decay=local.weight_decay)
    return AdamW(parameters, lr=learning_rate, weight_decay=local.weight_decay)
