"""Work ``represent``: local training, then embeddings of the public images or texts of the message; no update is sent.

The client gets the sides of the public pairs that it has data of. Where the message also has the server's embeddings of
their partners (group ``representations``), it draws its own to them after its local training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedfm.clients.distilling import PUBLIC
from fedfm.clients.representations import REPRESENTATIONS, PairReader
from fedfm.clients.work.base import Answer, ClientTask, facts_of, one_by_one
from fedfm.updates import MessageError, Payload

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker

REPRESENT = "represent"
"""The name of this kind of work."""


def represent(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Trains clients one by one and embeds with each."""
    return one_by_one(worker, tasks, _represent, profiled=True)


def _represent(worker: Worker, task: ClientTask) -> Answer:
    number, client, groups = task.instruction.round, task.client, task.instruction.groups
    evaluator, digest = worker.evaluator, worker.digest
    if evaluator is None or digest is None or worker.task.modality != "image-text":
        raise MessageError("the recipe's protocol does not ask for embeddings")
    reader, public = PairReader(evaluator), groups.get(PUBLIC, {})
    received = worker.receive(task)
    worker.tunable.write(received.at.received)
    indices = worker.trained(client, number)
    result = worker.fit(indices, received.at, client=client, round=number, trains=received.trains)
    _, own = worker.contract.finish(client, number, received, worker.tunable.read(), result, task.own)
    try:
        if REPRESENTATIONS in groups:
            reader.align(public, groups[REPRESENTATIONS], digest, round=number, client=client)
        found = reader.represent(public)
    except ValueError as error:
        raise MessageError(f"the public pairs of the instruction: {error}") from error
    facts = facts_of(worker, client, len(indices), result)
    said = {REPRESENTATIONS: {str(side): tensor for side, tensor in found.items()}}
    return Answer(client, Payload(number, task.instruction.base, facts, said, work=REPRESENT), own)
