"""Works of a secure sum, in the order of a round: public keys, sealed shares, the masked update, a signature of who is
in the sum, the shares to unmask.

The answers tell the server nothing of a client's data: counts in their facts are 0, and what the server may sum is in
the masked vector (`fedfm.secure`). A client keeps its memory of an attempt as the group ``secure/memory`` of its state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedfm.clients.masking import SECURE, Masking, bytes_of, flattened, length, message, tensor_of
from fedfm.clients.work.base import Answer, ClientTask, failed, one_by_one
from fedfm.clients.work.train import train
from fedfm.updates import Done, Failure, MessageError, Payload, Update
from fedfm.views import CHOICE

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker
    from fedfm.secure.masking_client import MaskingState

ADVERTISE, SHARE, MASK = "advertise-keys", "share-secrets", "train-masked"
CONFIRM, UNMASK = "confirm-survivors", "unmask"

MEMORY = "secure/memory"
"""Group of a client's state."""

Step = Callable[["Worker", ClientTask, Masking, "MaskingState"], tuple["MaskingState", dict[str, Tensor]]]
"""One client's step: its memory → its next memory, and the tensors that it sends."""


def _advertise(
    worker: Worker, task: ClientTask, masking: Masking, memory: MaskingState
) -> tuple[MaskingState, dict[str, Tensor]]:
    """Fresh public keys."""
    from fedfm.secure.attempt import Attempt
    from fedfm.secure.masking_client import advertise

    attempt = Attempt.decode(_told(task, "message"), masking.terms)
    if attempt.round != task.instruction.round:
        raise MessageError(f"the attempt is one of round {attempt.round}, not {task.instruction.round}")
    specs = worker.contract.returns(task.client, task.instruction.round, task.instruction.groups.get(CHOICE))
    after, keys = advertise(memory, attempt, length(specs))
    return after, {"keys": tensor_of(keys)}


def _share(
    worker: Worker, task: ClientTask, masking: Masking, memory: MaskingState
) -> tuple[MaskingState, dict[str, Tensor]]:
    """Sealed shares of the client's secrets, a row for each neighbour."""
    from fedfm.secure.masking_client import share

    after, sealed = share(memory, _told(task, "nonce"), _told(task, "message"))
    return after, {"shares": torch.stack([tensor_of(row) for row in sealed])}


def _confirm(
    worker: Worker, task: ClientTask, masking: Masking, memory: MaskingState
) -> tuple[MaskingState, dict[str, Tensor]]:
    """A signature of the list of clients in the sum."""
    from fedfm.secure.masking_client import confirm
    from fedfm.secure.unmasking import Survivors

    after, signature = confirm(memory, _told(task, "nonce"), Survivors.decode(_told(task, "message")))
    return after, {"signature": tensor_of(signature)}


def _unmask(
    worker: Worker, task: ClientTask, masking: Masking, memory: MaskingState
) -> tuple[MaskingState, dict[str, Tensor]]:
    """One share for each neighbour, a row each."""
    from fedfm.secure.masking_client import unmask
    from fedfm.secure.unmasking import Unmasking

    after, shares = unmask(memory, _told(task, "nonce"), Unmasking.decode(_told(task, "message")))
    return after, {"shares": torch.stack([tensor_of(row) for row in shares])}


def advertise_keys(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Answers work ``advertise-keys``."""
    return _each(worker, tasks, _advertise)


def share_secrets(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Answers work ``share-secrets``."""
    return _each(worker, tasks, _share)


def confirm_survivors(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Answers work ``confirm-survivors``."""
    return _each(worker, tasks, _confirm)


def unmask_sum(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Answers work ``unmask``."""
    return _each(worker, tasks, _unmask)


def train_masked(worker: Worker, tasks: Sequence[ClientTask]) -> Iterator[Answer]:
    """Trains clients as work ``train`` does, and masks what each would send."""
    asked = {task.client: task for task in tasks}
    for answer in train(worker, tasks):
        task, update = asked[answer.client], answer.update
        if isinstance(update, Failure):
            yield answer
            continue
        try:
            masked = _masked(worker, task, update)
        except Exception as error:  # one client's failure must not end the others' round
            masked = Answer(task.client, failed(task.client, error))
        yield replace(masked, shared=answer.shared)


def _masked(worker: Worker, task: ClientTask, update: Update) -> Answer:
    """The answer with everything that `update` tells in one masked vector.

    Raises:
        FloatingPointError: the loss, or a value of the update, is not finite.
        SecureAggregationError: as `fedfm.secure.masking_client.mask`.
    """
    from fedfm.secure.grid import Grid, dither, encode_facts
    from fedfm.secure.masking_client import mask
    from fedfm.secure.masks import Masked

    masking, facts = _masking(worker), update.facts
    memory, terms = _memory(task, masking), masking.terms
    if memory.attempt is None:
        raise MessageError("it takes no part in a secure sum")
    if facts.predictions and (facts.loss is None or not math.isfinite(facts.loss)):
        raise FloatingPointError("the training loss is not finite; try a lower local.learning_rate")
    specs = worker.contract.returns(task.client, update.round, task.instruction.groups.get(CHOICE))
    weight = masking.weight(task.client, facts.examples, facts.steps)
    values, weights = flattened(update.groups, specs, weight)
    grid = Grid(len(memory.attempt.clients), terms.clip, terms.weight, terms.bits)
    sums = {
        "weight": weight,
        "examples": facts.examples,
        "steps": facts.steps,
        "samples": facts.samples,
        "predictions": facts.predictions,
        "clipped": int(np.count_nonzero(np.abs(values) > terms.clip)),
        "loss": (facts.loss or 0.0) * facts.predictions,
    }
    rounding = dither(len(values), seed=worker.seed, round=update.round, client=task.client)
    vector = Masked(encode_facts(sums), grid.encode(values, weights, rounding))
    sharers = json.loads(_told(task, "message"))
    after, masked, proof = mask(memory, _told(task, "nonce"), sharers, vector)
    return _answer(
        worker,
        task,
        after,
        {
            "values": torch.from_numpy(masked.values),
            "facts": torch.from_numpy(masked.facts),
            "proof": tensor_of(proof),
        },
    )


def _each(worker: Worker, tasks: Sequence[ClientTask], step: Step) -> Iterator[Answer]:
    """The answers of clients one by one."""

    def answer(worker: Worker, task: ClientTask) -> Answer:
        worker.update_copy(task.instruction)
        masking = _masking(worker)
        memory, sent = step(worker, task, masking, _memory(task, masking))
        return _answer(worker, task, memory, sent)

    return one_by_one(worker, tasks, answer)


def _answer(worker: Worker, task: ClientTask, memory: MaskingState, sent: Mapping[str, Tensor]) -> Answer:
    facts, instruction = Done(client=task.client, examples=0, proxy_version=worker.version), task.instruction
    update = Payload(instruction.round, instruction.base, facts, {SECURE: sent}, instruction.work)
    return Answer(task.client, update, {MEMORY: message(memory.encode())})


def _masking(worker: Worker) -> Masking:
    if worker.contract.masking is None:
        raise MessageError("the recipe has no secure sums")
    return worker.contract.masking


def _memory(task: ClientTask, masking: Masking) -> MaskingState:
    """What the client remembers; a new identity before its first attempt."""
    from fedfm.secure.masking_client import MaskingState

    kept = task.own.get(MEMORY)
    return (
        MaskingState.decode(task.client, bytes_of(kept["message"]), masking.terms)
        if kept
        else MaskingState.new(task.client)
    )


def _told(task: ClientTask, name: str) -> bytes:
    """A tensor of bytes of the instruction.

    Raises:
        MessageError: it is missing, or has no bytes.
    """
    tensor = task.instruction.groups.get(SECURE, {}).get(name)
    if tensor is None or tensor.dtype != torch.uint8:
        raise MessageError(f"group `{SECURE}` of the instruction has no bytes `{name}`")
    return bytes_of(tensor)
