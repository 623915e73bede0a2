"""What a client can be asked to do: a kind of work answers instructions with updates."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from fedfm.clients.profile import profiling
from fedfm.clients.rules import LocalResult
from fedfm.clients.state import State
from fedfm.printable import error_line
from fedfm.proxies.base import StaleProxyError
from fedfm.updates import Done, Failure, Instruction, Update

if TYPE_CHECKING:
    from fedfm.clients.worker import Worker


@dataclass(frozen=True)
class ClientTask:
    """What one client is asked.

    Attributes:
        client: client id.
        instruction: what the server sent; its groups are still as the update path encoded them.
        own: what the client keeps, as it was after its last accepted update; empty before its first round.
    """

    client: str
    instruction: Instruction
    own: State = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        client: client id.
        update: what the client sends, or why there is nothing.
        own: what it keeps from now on; empty: what it has, or nothing.
        shared: number of clients of its pass, which are answered one after the other once all are ready.
    """

    client: str
    update: Update | Failure
    own: State = field(default_factory=dict)
    shared: int = 1


@dataclass(frozen=True)
class Work:
    """One kind of work.

    Attributes:
        answer: answers clients that may share a pass, each as soon as it is ready.
        trains: whether clients take local steps; only these change what they keep.
        shares_passes: whether several clients are trained in one pass.
        gets_extras: whether the server sends the algorithm's groups beside the tunable.
        sends_update: whether an answer is the update of a client: its change of the tunable, and what the algorithm
            returns beside it. Of other answers, the protocol names the groups.
        measures: whether answers are figures of what a client holds: counts, loss, and each of the recipe's metrics in
            ``Done.extra``. A run also asks for them before round 1.
        hides: whether an answer's facts tell nothing of the client's data: all its counts are 0.
        keeps: whether an answer always leaves tensors at the client, whatever algorithm, stages and views keep.
    """

    answer: Callable[[Worker, Sequence[ClientTask]], Iterator[Answer]]
    trains: bool = False
    shares_passes: bool = False
    gets_extras: bool = False
    sends_update: bool = False
    measures: bool = False
    hides: bool = False
    keeps: bool = False


def one_by_one(
    worker: Worker,
    tasks: Sequence[ClientTask],
    answer: Callable[[Worker, ClientTask], Answer],
    *,
    profiled: bool = False,
) -> Iterator[Answer]:
    """The answers of clients one by one; what one of them raises is its own failure and does not end the others' round.

    Args:
        worker: plays the clients.
        tasks: one for each client.
        answer: one client's answer.
        profiled: whether its operations belong in the worker's profile.
    """
    for task in tasks:
        try:
            with profiling(worker.profile if profiled else None):
                found = answer(worker, task)
        except Exception as error:
            found = Answer(task.client, failed(task.client, error))
        yield found


def failed(client: str, error: Exception) -> Failure:
    """The failure of a client, from what was raised while it worked."""
    reason = error_line(error)
    if isinstance(error, torch.OutOfMemoryError):
        reason = "out of memory: lower local.batch_size or data.max_length"
    return Failure(client, reason, traceback.format_exc(), stale=isinstance(error, StaleProxyError))


def facts_of(worker: Worker, client: str, examples: int, result: LocalResult) -> Done:
    """What a client says of its local training where it sends no update."""
    return Done(
        client=client,
        examples=examples,
        steps=result.steps,
        samples=result.samples,
        predictions=result.predictions,
        loss=result.loss if math.isfinite(result.loss) else None,
        proxy_version=worker.version,
    )
