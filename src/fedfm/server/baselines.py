"""What a federation is measured against: always the commonest class, each client alone, all data in one place.

Each is trained with the same code, local settings and number of optimiser steps as the run itself, from the same start.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedfm.randomness import numpy_generator
from fedfm.server.experiment import Experiment
from fedfm.server.state import RunState

LOCAL_CLIENTS = 10
"""How many clients, a keyed choice, are trained alone for the baseline `local`."""


def baselines(experiment: Experiment, state: RunState) -> dict[str, Any]:
    """Headline test metric of each baseline: ``majority`` where there are classes, the others where asked.

    Args:
        experiment: the run; its tunable is overwritten.
        state: the finished run; says how many steps each round took.
    """
    results: dict[str, Any] = {}
    data = experiment.data
    if data.train.labels is not None and data.test.labels is not None:
        held = np.concatenate(list(data.federation.train.values()))
        results["majority"] = data.task.majority(data.train.labels[held], data.test.labels)
    for name in experiment.recipe.evaluate.baselines:
        results[name] = _pooled(experiment, state) if name == "pooled" else _local(experiment, state)
    return results


def _pooled(experiment: Experiment, state: RunState) -> float:
    """One client that holds everybody's examples takes each round as many steps as the whole cohort did."""
    indices = np.sort(np.concatenate(list(experiment.data.federation.train.values())))
    return _train_alone(experiment, indices, "pooled", [steps for steps in state.steps if steps])


def _local(experiment: Experiment, state: RunState) -> dict[str, float]:
    """Some clients train alone, each for its mean share of the federation's steps; all are judged on the test set."""
    clients = experiment.data.federation.train
    chosen = numpy_generator(experiment.recipe.seed, "local baseline").permutation(sorted(clients))[:LOCAL_CLIENTS]
    steps = max(1, round(sum(state.steps) / len(clients)))
    scores = [_train_alone(experiment, clients[str(client)], str(client), [steps]) for client in chosen]
    return {"mean": float(np.mean(scores)), "worst": float(np.min(scores)), "best": float(np.max(scores))}


def _train_alone(experiment: Experiment, indices: np.ndarray, key: str, steps: list[int]) -> float:
    recipe = experiment.recipe
    experiment.tunable.write(experiment.start)
    for number, budget in enumerate(steps, start=1):
        experiment.worker.fit(
            indices,
            client=f"baseline {key}",
            round=number,
            learning_rate=recipe.local.learning_rate_at(number, len(steps)),
            max_steps=budget,
        )
    return experiment.evaluator(experiment.data.test)[experiment.evaluator.metrics[0]]
