"""Baselines of a federation: the most frequent class, each client alone, all data in one place.

Clients with a backbone of their own are not among them; `own_models` has each of these alone.

Each is trained with the same code and local settings as the run itself, from the same start: `pooled` with as many
optimiser steps as all clients together took, `local` with as many as a client took on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedfm.algorithms import Algorithm
from fedfm.clients import ClientRound, Worker
from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState

LOCAL_CLIENTS = 10
"""The number of clients, chosen by a keyed generator, that are trained alone for the baseline `local`."""


Clients = Mapping[str, np.ndarray]
"""Client id → indices of its training examples."""


def baselines(experiment: Experiment, state: RunState) -> dict[str, Any]:
    """Headline test metric of each baseline: ``majority`` where there are classes, others where the recipe names them.

    Empty where clients hold their own data.

    Args:
        experiment: the run; its tunable is overwritten.
        state: the state after the run, with the number of steps of each round.
    """
    results: dict[str, Any] = {}
    data, training, worker = experiment.data, experiment.data.training, experiment.worker
    if training is None or worker is None:
        return results
    left_out = experiment.recipe.federation.without
    clients = {client: indices for client, indices in training.federation.train.items() if client not in left_out}
    if training.train.labels is not None and data.test.labels is not None:
        held = np.concatenate(list(clients.values()))
        commonest = data.task.majority(training.train.labels[held], data.test.labels)
        if commonest is not None:
            results["majority"] = commonest[experiment.evaluator.metrics[0]]
    alike = {client: indices for client, indices in clients.items() if client not in experiment.backbones}
    for name in experiment.recipe.evaluate.baselines:
        with experiment.client_model.pretrained(state.proxy):
            if name == "pooled":
                results[name] = _pooled(experiment, state, clients, worker.own)
            elif alike:
                results[name] = _local(experiment, state, alike, worker.own)
    return results


def _pooled(experiment: Experiment, state: RunState, clients: Clients, worker: Worker) -> float:
    """One client with all examples takes as many steps in each round as the whole cohort did.

    It trains the backbone, also in a run with a proxy: with pooled data a proxy has no purpose.
    """
    indices = np.sort(np.concatenate(list(clients.values())))
    on_backbone = replace(worker, tunable=experiment.tunable)
    start = experiment.client_model.to_backbone(experiment.start)
    train_alone(on_backbone, start, indices, "pooled", [steps for steps in state.steps if steps])
    return _test_score(experiment, on_backbone)


def _local(experiment: Experiment, state: RunState, clients: Clients, worker: Worker) -> dict[str, float]:
    """Some clients train alone, in as many rounds as a client took part in on average; they are scored on the test set.

    They train on the latest proxy, which the federation has helped to align, so the baseline is slightly too good.
    """
    if state.proxy is not None and experiment.client_model.is_sent:
        worker.copy.download(state.proxy)
    chosen = numpy_generator(experiment.recipe.seed, "local baseline").permutation(sorted(clients))[:LOCAL_CLIENTS]
    scores = []
    for client in (str(name) for name in chosen):
        train_alone(worker, experiment.start, clients[client], client, usual_steps(experiment, state, client))
        scores.append(_test_score(experiment, worker))
    ordered = sorted(scores, reverse=not experiment.data.task.metrics[experiment.evaluator.metrics[0]])
    return {"mean": float(np.mean(scores)), "worst": ordered[0], "best": ordered[-1]}


def usual_steps(experiment: Experiment, state: RunState, client: str) -> list[int]:
    """Optimiser steps of a client in each of as many rounds as a client took part in on average."""
    each = experiment.recipe.local.steps(experiment.data.clients[client])
    clients = len(experiment.data.clients) - len(experiment.recipe.federation.without)
    return [each] * max(1, round(sum(state.steps) / clients / each))


def train_alone(worker: Worker, start: Params, indices: np.ndarray, key: str, steps: list[int]) -> None:
    """Plain training of the worker's tunable, without the algorithm's hooks and noise, ``steps`` in each round."""
    contract = replace(worker.contract, rule=Algorithm())
    plain = replace(worker, contract=contract, rounds=len(steps), promise=None)
    plain.tunable.write(start)
    for number, budget in enumerate(steps, start=1):
        plain.fit(
            indices,
            ClientRound(start, {}, {}, plain.local.learning_rate_at(number, len(steps))),
            client=f"baseline {key}",
            round=number,
            max_steps=budget,
        )


def _test_score(experiment: Experiment, worker: Worker) -> float:
    """Headline test metric of the worker's tunable."""
    evaluator = replace(experiment.evaluator, tunable=worker.tunable)
    return evaluator(experiment.data.test)[evaluator.metrics[0]]
