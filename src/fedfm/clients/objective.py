"""What a local step minimises, and the gradient that a plain step follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedfm.clients.profile import phase
from fedfm.clients.rules import TEACHER, Groups, LocalRule
from fedfm.models.tunable import Tunable
from fedfm.params import Params
from fedfm.tasks.base import Batch, Task


class StepTotals(NamedTuple):
    """What one step did.

    Attributes:
        loss: summed loss.
        predictions: over how many predictions.
        samples: in how many examples.
    """

    loss: float
    predictions: float
    samples: int


class StepGradient(Protocol):
    """Computes the gradient of a step."""

    def __call__(self, batch: Batch) -> StepTotals:
        """Leaves the gradient in ``grad`` of the parameters that move, which have none before."""
        ...


class ExampleLosses(NamedTuple):
    """What each example of a batch contributes, ``[B]`` each.

    Attributes:
        objective: what is minimised: the task's summed loss, and the algorithm's extra term.
        loss: the task's summed loss alone.
        predictions: how many predictions it sums over.
    """

    objective: Tensor
    loss: Tensor
    predictions: Tensor


@dataclass(frozen=True)
class Objective:
    """What a client minimises.

    Attributes:
        tunable: the model.
        task: the loss.
        rule: the algorithm's side at the client, which may add a term.
        teacher: the values of the tunable whose outputs that term compares with; None: it does not.
        dropout: whether the backbone's own dropout acts.
    """

    tunable: Tunable
    task: Task
    rule: LocalRule
    teacher: Params | None
    dropout: bool

    @classmethod
    def of(
        cls,
        tunable: Tunable,
        task: Task,
        rule: LocalRule,
        received: Params,
        own: Groups,
        *,
        sent: Groups | None = None,
        dropout: bool,
    ) -> Objective:
        """The objective of a round.

        Args:
            tunable: the model.
            task: the loss.
            rule: the algorithm's side at the client.
            received: the tunable as received.
            own: what the client keeps.
            sent: what the algorithm sent beside the tunable.
            dropout: whether the backbone's own dropout acts.
        """
        named = (sent or {}).get(TEACHER, {})
        teachers: Mapping[str, Params | None] = {
            "none": None,
            "received": received,
            "own": own.get("tunable"),
            "sent": named if any(tensor.any() for tensor in named.values()) else None,
        }
        return cls(tunable, task, rule, teachers[rule.teacher], dropout)

    def __call__(self, batch: Batch) -> ExampleLosses:
        """The losses of a batch's examples, by one forward pass; a teacher takes another."""
        outputs = self.task.outputs(self.tunable.model, batch)
        loss, predictions = self.task.losses(outputs, batch)
        if not self.rule.extra_loss:
            return ExampleLosses(loss, loss, predictions)
        taught = None if self.teacher is None else self._taught(self.teacher, batch)
        return ExampleLosses(loss + self.rule.loss(outputs, batch, taught), loss, predictions)

    @torch.no_grad()
    def _taught(self, values: Params, batch: Batch) -> Tensor:
        """The task's outputs with other values of the tunable, without dropout; the present values come back."""
        parameters = self.tunable.parameters
        present = {name: parameter.data for name, parameter in parameters.items()}
        self.tunable.eval()
        try:
            for name, parameter in parameters.items():
                parameter.data = values[name]
            return self.task.outputs(self.tunable.model, batch)
        finally:
            for name, parameter in parameters.items():
                parameter.data = present[name]
            self.tunable.train(dropout=self.dropout)


@dataclass(frozen=True)
class BatchGradient:
    """The gradient of a batch's mean loss a prediction; zero where nothing is predicted."""

    objective: Objective

    def __call__(self, batch: Batch) -> StepTotals:
        """As `StepGradient`."""
        with phase("forward"):
            found = self.objective(batch)
            loss, predictions = found.loss.sum(), found.predictions.sum()
            objective = loss if found.objective is found.loss else found.objective.sum()
        with phase("backward"):
            (objective / predictions.clamp(min=1)).backward()  # type: ignore[no-untyped-call]
        return StepTotals(loss.item(), predictions.item(), len(found.loss))
