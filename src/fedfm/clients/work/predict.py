"""Work ``predict``: local training, then logits on the public texts of the message. The update itself is not sent.

A client with the server's backbone trains from the tunable in the message. A client with another backbone continues
from its own tunable; where the message has logits of the server (group ``teacher``), it first learns from them. They
are of the public texts, or of other texts in the same group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from fedfm.clients.distilling import LOGITS, PREDICTIONS, PUBLIC, TEACHER, Learner
from fedfm.clients.work.base import Answer, ClientTask, facts_of, one_by_one
from fedfm.data.examples import Examples
from fedfm.data.packed_texts import unpack
from fedfm.updates import MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker


def predict(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Trains clients one by one and predicts with each."""
    return one_by_one(worker, tasks, _predict, profiled=True)


def _predict(worker: Worker, task: ClientTask) -> Answer:
    number, client, groups = task.instruction.round, task.client, task.instruction.groups
    learner, digest = worker.learner, worker.digest
    if learner is None or digest is None:
        raise MessageError("the recipe's protocol does not ask for predictions")
    received = worker.receive(task)
    examples = _texts(learner, PUBLIC, groups.get(PUBLIC, {}))
    worker.tunable.write(received.at.received)
    if TEACHER in groups:
        if received.held:
            raise MessageError(f"group `{TEACHER}` is for clients with a backbone of their own")
        beside = {name: tensor for name, tensor in groups[TEACHER].items() if name != LOGITS}
        lesson = _texts(learner, TEACHER, beside) if beside else examples
        teacher = groups[TEACHER].get(LOGITS)
        if teacher is None or teacher.ndim != 2 or len(teacher) != len(lesson):
            raise MessageError(f"group `{TEACHER}` must have logits of each of the {len(lesson)} examples")
        learner.learn(lesson, teacher, digest, round=number, client=client)
    indices = worker.trained(client, number)
    result = worker.fit(indices, received.at, client=client, round=number, trains=received.trains)
    _, own = worker.contract.finish(client, number, received, worker.tunable.read(), result, task.own)
    facts = facts_of(worker, client, len(indices), result)
    predictions = {PREDICTIONS: {LOGITS: learner.logits(examples)}}
    return Answer(client, Payload(number, task.instruction.base, facts, predictions, work="predict"), own)


def _texts(learner: Learner, group: str, packed: Mapping[str, Tensor]) -> Examples:
    """The texts of a group of the message, in the tokens of the client's model."""
    try:
        return learner.encode(unpack(packed))
    except ValueError as error:
        raise MessageError(f"group `{group}` of the instruction: {error}") from error
