"""Work ``moments``: the moments of a client's features, class by class, as means over its examples.

With features f_i of the frozen model, d of them, and r = √d,

    share[c] = 1/n·Σ_{i in c} 1,   mean[c] = 1/n·Σ_{i in c} f_i/r,   square[c] = 1/n·Σ_{i in c} f_i²/d

so that the norm of the whole answer is about 1 whatever n and d are. Nothing is trained, and nothing changes at the
client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.readout import features_of
from fedfm.clients.work.base import Answer, ClientTask, one_by_one
from fedfm.spec import Spec, TensorSpec
from fedfm.updates import Done, MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

MOMENTS, SHARE, MEAN, SQUARE = "moments", "share", "mean", "square"
"""The name of this kind of work and of its group, and its tensors."""

FORM = "covariance"
"""Fact of a message: the place in `FORMS` of how variances are told."""

Form = Literal["diagonal", "tied", "spherical"]
FORMS: tuple[Form, ...] = ("diagonal", "tied", "spherical")
"""A variance for each class and feature; for each feature; or one for all."""


def moments_spec(form: Form, classes: int, size: int) -> Spec:
    """Spec of the answer's group.

    Args:
        form: of the variances.
        classes: C.
        size: d.
    """
    squares = {"diagonal": (classes, size), "tied": (size,), "spherical": (1,)}[form]
    return {SHARE: TensorSpec((classes,)), MEAN: TensorSpec((classes, size)), SQUARE: TensorSpec(squares)}


def moments(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Measures clients one by one."""
    return one_by_one(worker, tasks, _moments)


def _moments(worker: Worker, task: ClientTask) -> Answer:
    instruction, client = task.instruction, task.client
    worker.update_copy(instruction)
    place = instruction.facts.extra.get(FORM)
    if place is None or place not in range(len(FORMS)):
        raise MessageError(f"fact `{FORM}` of the instruction must be a whole number below {len(FORMS)}")
    form = FORMS[int(place)]
    features, labels, classes = own_features(worker, worker.clients[client])
    facts = Done(client=client, examples=len(labels), proxy_version=worker.version)
    groups = {MOMENTS: moments_of(features, labels, classes, form)}
    return Answer(task.client, Payload(instruction.round, instruction.base, facts, groups, work=MOMENTS))


def moments_of(features: np.ndarray, labels: np.ndarray, classes: int, form: Form) -> dict[str, Tensor]:
    """The moments of some examples, float32.

    Args:
        features: float ``[n, d]``.
        labels: int ``[n]``.
        classes: C.
        form: of the variances.
    """
    x = torch.from_numpy(features).double() / features.shape[1] ** 0.5
    chosen = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), classes).double().T / len(labels)
    square = chosen @ x.square()
    squares: Mapping[Form, Tensor] = {"diagonal": square, "tied": square.sum(0), "spherical": square.sum().reshape(1)}
    found = {SHARE: chosen.sum(1), MEAN: chosen @ x, SQUARE: squares[form]}
    return {name: tensor.float() for name, tensor in found.items()}


def own_features(worker: Worker, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Features ``[n, d]`` and classes ``[n]`` of some training examples, and how many classes the task has.

    Args:
        worker: plays the client; its tunable gets the values before round 1, which below the readout never change.
        indices: into its examples.

    Raises:
        MessageError: the recipe's task has no classes.
    """
    evaluator, labels = worker.evaluator, worker.examples.labels
    if evaluator is None or labels is None:
        raise MessageError("the recipe's task has no classes")
    worker.tunable.write(dict(worker.contract.start))
    return features_of(evaluator, worker.examples, indices), labels[indices], len(evaluator.labels)
