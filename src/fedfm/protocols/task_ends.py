"""What the server learns after the last round of a task of the recipe's stream."""

from __future__ import annotations

from collections.abc import Collection

from fedfm.algorithms import ServerState
from fedfm.params import Params, map_params, zeros_like
from fedfm.protocols.io import IO, Ask


def after_task(number: int, params: Params, state: ServerState, clients: Collection[str], io: IO) -> ServerState:
    """The server's state after a round; changed where the round was the last of a task that another one follows.

    The clients of the round are asked for the algorithm's `task_work` at the new tunable. Their answers count by their
    numbers of examples. An algorithm without such a work only learns that the task is over.

    Args:
        number: the round.
        params: the tunable after it.
        state: the server's after it.
        clients: of the round.
        io: of the round.

    Raises:
        InterruptedRunError: the run was asked to stop.
        TooFewClientsError: fewer answers than the quorum.
    """
    algorithm, work = io.algorithm, io.algorithm.task_work
    if not io.ends_task(number):
        return state
    if work is None:
        return {**state, **algorithm.end_task(params, {}, state)}
    if not clients:
        return state
    ask = Ask(number, params, work=work, expects={work: io.spec}, facts=algorithm.task_facts)
    total, examples = zeros_like(params), 0
    for answer in io.ask(dict.fromkeys(clients, ask)):
        weight = answer.facts.examples
        total = map_params(lambda sum_, value, n=weight: sum_ + n * value.to(sum_.dtype), total, answer.groups[work])
        examples += weight
    mean = map_params(lambda sum_: sum_ / max(examples, 1), total)
    return {**state, **algorithm.end_task(params, mean, state)}
