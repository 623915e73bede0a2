"""LwF: on the data of a new task, the model goes on to say what it said before that task.

Li and Hoiem, Learning without Forgetting, arXiv:1606.09282, for clients that train on one task of a stream after the
other. With z(x) the logits of the model in training and z*(x) those of the server's model after the last task that is
over, the teacher, each client minimises

    F_c(w) + λ·T²·E_x KL( softmax(z*(x) / T) ‖ softmax(z(x) / T) )

over its examples x of the present task. So no example of an earlier task is kept, and nothing is measured at clients.
During the first task there is no teacher, and it is FedAvg. The paper compares the outputs of each old task's head;
here all classes are compared at once, those of the new task among them.

A message has the tunable and the teacher's, twice as much as FedAvg's; before the first task is over, the second is
zeros. A local step has a further forward pass without gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.algorithms.base import Algorithm, Groups, ServerState
from fedfm.clients.distilling import distillation_losses
from fedfm.clients.rules import TEACHER, Teacher
from fedfm.params import Params, zeros_like
from fedfm.tasks.base import Batch


class Lwf(Algorithm):
    """Federated averaging that learns a new task from its labels and from the model before that task."""

    name: Literal["lwf"] = "lwf"
    """Federated averaging that learns a new task from its labels and from the model before that task."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """λ: how much the model before the task counts; 0 is FedAvg."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T, by which logits are divided; a higher temperature counts the unlikely classes more."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.TASK_ENDS: "the model after each task becomes the teacher",
        capabilities.TASKS: "it keeps what the model says of earlier tasks; set federation.stream",
        capabilities.LABELS: "it compares the logits of each example",
        capabilities.LASTING_COORDINATES: "the teacher's coordinates must mean in later tasks what they meant",
        capabilities.BACKBONE_WEIGHTS: "the tunable of a proxy that changes is no longer the model before the task",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.MODEL_CHANGES: "its teacher is the tunable on the frozen weights that there were",
    }
    sent: ClassVar[tuple[str, ...]] = (TEACHER,)
    teacher: ClassVar[Teacher] = "sent"

    def start(self, params: Params) -> ServerState:
        """No teacher yet."""
        return {TEACHER: zeros_like(params)}

    def sends(self, state: ServerState) -> Groups:
        """The tunable after the last task that is over."""
        return {TEACHER: state[TEACHER]}

    def loss(self, outputs: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        """λ·T²·KL(softmax(z* / T) ‖ softmax(z / T)) of each example; 0 without a teacher."""
        if teacher is None:
            return outputs.new_zeros(len(outputs))
        return self.weight * distillation_losses(outputs, teacher, self.temperature)

    def end_task(self, params: Params, mean: Params, state: ServerState) -> ServerState:
        """The tunable after the task becomes the teacher."""
        return {TEACHER: params}
