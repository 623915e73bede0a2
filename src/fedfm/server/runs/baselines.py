"""What a federation is measured against: always the commonest class, each client alone, all data in one place.

Each is trained with the same code and local settings as the run itself, from the same start: `pooled` with as many
optimiser steps as all clients together took, `local` with as many as a client took on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedfm.algorithms import Algorithm
from fedfm.clients import Worker
from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState

LOCAL_CLIENTS = 10
"""How many clients, a keyed choice, are trained alone for the baseline `local`."""


Clients = Mapping[str, np.ndarray]
"""Client id → indices of its training examples."""


def baselines(experiment: Experiment, state: RunState) -> dict[str, Any]:
    """Headline test metric of each baseline: ``majority`` where there are classes, the others where asked.

    None where clients hold their data.

    Args:
        experiment: the run; its tunable is overwritten.
        state: the finished run; says how many steps each round took.
    """
    results: dict[str, Any] = {}
    data, training, worker = experiment.data, experiment.data.training, experiment.worker
    if training is None or worker is None:
        return results
    clients = training.federation.train
    if training.train.labels is not None and data.test.labels is not None:
        held = np.concatenate(list(clients.values()))
        commonest = data.task.majority(training.train.labels[held], data.test.labels)
        if commonest is not None:
            results["majority"] = commonest[experiment.evaluator.metrics[0]]
    for name in experiment.recipe.evaluate.baselines:
        baseline = _pooled if name == "pooled" else _local
        results[name] = baseline(experiment, state, clients, worker)
    return results


def _pooled(experiment: Experiment, state: RunState, clients: Clients, worker: Worker) -> float:
    """One client that holds everybody's examples takes each round as many steps as the whole cohort did.

    It trains the backbone, also where clients hold a proxy: nothing would keep it apart from the data.
    """
    indices = np.sort(np.concatenate(list(clients.values())))
    on_backbone = replace(worker, tunable=experiment.tunable)
    start = experiment.proxy.to_backbone(experiment.start) if experiment.proxy else experiment.start
    return _train_alone(experiment, on_backbone, start, indices, "pooled", [steps for steps in state.steps if steps])


def _local(experiment: Experiment, state: RunState, clients: Clients, worker: Worker) -> dict[str, float]:
    """Some clients train alone what they hold, as often as they took part on average; the test set judges them.

    A proxy is the latest, to whose alignment the federation has contributed: with one, this flatters being alone.
    """
    if state.proxy is not None and worker.proxy is not None:
        worker.proxy.download(state.proxy)
    local = experiment.recipe.local
    chosen = numpy_generator(experiment.recipe.seed, "local baseline").permutation(sorted(clients))[:LOCAL_CLIENTS]
    scores = []
    for client in (str(name) for name in chosen):
        each = local.steps(len(clients[client]))
        times = max(1, round(sum(state.steps) / len(clients) / each))
        scores.append(_train_alone(experiment, worker, experiment.start, clients[client], client, [each] * times))
    ordered = sorted(scores, reverse=not experiment.data.task.metrics[experiment.evaluator.metrics[0]])
    return {"mean": float(np.mean(scores)), "worst": ordered[0], "best": ordered[-1]}


def _train_alone(
    experiment: Experiment, worker: Worker, start: Params, indices: np.ndarray, key: str, steps: list[int]
) -> float:
    """Headline test metric after plain training, without the algorithm's hook, of ``steps`` a round."""
    plain = replace(worker, gradient_rule=Algorithm().gradient)
    plain.tunable.write(start)
    for number, budget in enumerate(steps, start=1):
        plain.fit(
            indices,
            client=f"baseline {key}",
            round=number,
            learning_rate=experiment.recipe.local.learning_rate_at(number, len(steps)),
            max_steps=budget,
        )
    evaluator = replace(experiment.evaluator, tunable=plain.tunable)
    return evaluator(experiment.data.test)[evaluator.metrics[0]]
