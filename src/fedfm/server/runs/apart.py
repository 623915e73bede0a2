"""Training without a federation: plain local steps on some examples, of one learner or of each of several clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby, islice

import numpy as np

from fedfm.algorithms import Algorithm
from fedfm.clients import ClientRound, Worker
from fedfm.clients.stacked import Stacking, train_stacked
from fedfm.clients.work.train import share_passes, stack_member
from fedfm.params import Params

Clients = Mapping[str, np.ndarray]
"""Client id → indices of its training examples."""

Steps = Mapping[str, Sequence[int]]
"""Client id → how many optimiser steps in each round."""


def train_alone(worker: Worker, start: Params, indices: np.ndarray, key: str, steps: Sequence[int]) -> None:
    """Trains the worker's tunable in place, without the algorithm's hooks and noise.

    Args:
        worker: has the examples and the local settings.
        start: values of the tunable.
        indices: into the worker's examples.
        key: of the random choices.
        steps: how many in each round.
    """
    plain = _plain(worker, len(steps))
    plain.tunable.write(start)
    for number, budget in enumerate(steps, start=1):
        at = _round(plain, start, number)
        plain.fit(indices, at, client=_key(key), round=number, max_steps=budget)


def trained_apart(worker: Worker, start: Params, clients: Clients, steps: Steps) -> Iterator[tuple[str, Params]]:
    """The tunable of each client after what `train_alone` does, in one pass where clients can share it.

    The arithmetic of a pass is that of the run. Clients of a pass have equally many rounds, so that their learning
    rates are equal.
    """
    stacking = worker.stacking if share_passes(_plain(worker, 1)) else None
    for rounds, alike in groupby(sorted(clients, key=lambda client: len(steps[client])), lambda c: len(steps[c])):
        waiting = iter(alike)
        while some := {client: clients[client] for client in islice(waiting, stacking.clients if stacking else 1)}:
            found: Mapping[str, Params] = {}
            if stacking is not None:
                with suppress(FloatingPointError):  # of one that diverges, and harms no other where each trains alone
                    found = _in_one_pass(_plain(worker, rounds), stacking, start, some, steps)
            yield from found.items()
            for client in (name for name in some if name not in found):
                train_alone(worker, start, clients[client], client, steps[client])
                yield client, worker.tunable.read()


def _in_one_pass(plain: Worker, stacking: Stacking, start: Params, clients: Clients, steps: Steps) -> dict[str, Params]:
    held = dict.fromkeys(clients, start)
    for number in range(1, plain.rounds + 1):
        members = [
            stack_member(
                plain,
                stacking,
                _key(client),
                indices,
                _round(plain, held[client], number),
                number,
                max_steps=steps[client][number - 1],
            )
            for client, indices in clients.items()
        ]
        done = train_stacked(
            plain.tunable, stacking, plain.task, members, plain.local, plain.contract.rule, device=plain.device
        )
        held = {client: trained for client, (_, trained) in zip(clients, done, strict=True)}
    return held


def _plain(worker: Worker, rounds: int) -> Worker:
    """The worker without the algorithm's hooks, and without what it promises of examples."""
    return replace(worker, contract=replace(worker.contract, rule=Algorithm()), rounds=rounds, promise=None)


def _round(plain: Worker, held: Params, number: int) -> ClientRound:
    return ClientRound(held, {}, {}, plain.local.learning_rate_at(number, plain.rounds))


def _key(name: str) -> str:
    return f"baseline {name}"
