"""Baselines of a federation: the most frequent class, each client alone, all data in one place.

Clients with a backbone of their own are not among them; `own_models` has each of these alone.

Each is trained with the same code and local settings as the run itself, from the same start: `pooled` with as many
optimiser steps as all clients together took, `local` with as many as a client took on average. They are measured where
the run is: on the server's test set, or on what each client holds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedfm.clients import Worker
from fedfm.clients.evaluation import Evaluator
from fedfm.randomness import numpy_generator
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.apart import Clients, train_alone, trained_apart

LOCAL_CLIENTS = 10
"""Of clients that are judged on the server's test set, so many, chosen by a keyed generator, are trained alone."""


@dataclass
class Baselines:
    """What the baselines come to.

    Attributes:
        headline: headline metric of each: ``majority`` where there are classes, others where the recipe names them.
        by_client: baseline → client id → headline metric on what the client is evaluated on; of clients that are.
    """

    headline: dict[str, Any] = field(default_factory=dict)
    by_client: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Judge:
    """Measures the headline metric, on the test set and for each client.

    Attributes:
        experiment: the run.
        own: client id → its examples to evaluate on, which are ``examples``.
    """

    experiment: Experiment
    own: Clients

    @property
    def by_clients(self) -> bool:
        """Whether clients' own examples decide."""
        return self.experiment.judged_by == "clients" and bool(self.own)

    def test(self, evaluator: Evaluator) -> float:
        """On the server's test set."""
        return evaluator(self.experiment.data.test)[evaluator.metrics[0]]

    def client(self, evaluator: Evaluator, client: str) -> float | None:
        """On a client's own examples; None where nothing is predicted in them."""
        examples, _ = self.experiment.data.client_test_sets()
        if not evaluator.predicts(examples, self.own[client]):
            return None
        return evaluator(examples, self.own[client])[evaluator.metrics[0]]

    def mean(self, scores: Mapping[str, float]) -> float:
        """Over clients, weighted by their examples."""
        return float(np.average(list(scores.values()), weights=[len(self.own[client]) for client in scores]))


def baselines(experiment: Experiment, state: RunState) -> Baselines:
    """The baselines; none where clients hold their own data.

    Args:
        experiment: the run; its tunable is overwritten.
        state: the state after the run, with the number of steps of each round.
    """
    results = Baselines()
    data, training, worker = experiment.data, experiment.data.training, experiment.worker
    if training is None or worker is None:
        return results
    left_out = experiment.recipe.federation.without
    clients = {client: indices for client, indices in training.federation.train.items() if client not in left_out}
    if training.train.labels is not None and data.test.labels is not None:
        held = np.concatenate(list(clients.values()))
        commonest = data.task.majority(training.train.labels[held], data.test.labels)
        if commonest is not None:
            results.headline["majority"] = commonest[experiment.evaluator.metrics[0]]
    alike = {client: indices for client, indices in clients.items() if client not in experiment.backbones}
    judge = _Judge(experiment, data.client_test_sets()[1])
    for name in experiment.recipe.evaluate.baselines:
        trained = clients if name == "pooled" else alike
        if not trained:
            continue
        baseline = _pooled if name == "pooled" else _local
        with experiment.client_model.pretrained(state.proxy):
            results.headline[name], results.by_client[name] = baseline(judge, state, trained, worker.own)
    return results


def _pooled(judge: _Judge, state: RunState, clients: Clients, worker: Worker) -> tuple[float, dict[str, float]]:
    """One client with all examples takes as many steps in each round as the whole cohort did.

    It trains the backbone, also in a run with a proxy: with pooled data a proxy has no purpose.
    """
    experiment = judge.experiment
    indices = np.sort(np.concatenate(list(clients.values())))
    on_backbone = replace(worker, tunable=experiment.tunable)
    start = experiment.client_model.to_backbone(experiment.start)
    train_alone(on_backbone, start, indices, "pooled", [steps for steps in state.steps if steps])
    evaluator = replace(experiment.evaluator, tunable=on_backbone.tunable)
    own = {client: found for client in judge.own if (found := judge.client(evaluator, client)) is not None}
    return judge.mean(own) if judge.by_clients else judge.test(evaluator), own


def _local(
    judge: _Judge, state: RunState, clients: Clients, worker: Worker
) -> tuple[dict[str, float], dict[str, float]]:
    """Clients train alone, in as many rounds as a client took part in on average.

    They train on the latest proxy, which the federation has helped to align, so the baseline is slightly too good.
    """
    experiment = judge.experiment
    if state.proxy is not None and experiment.client_model.is_sent:
        worker.copy.download(state.proxy)
    evaluator = replace(experiment.evaluator, tunable=worker.tunable)
    drawn = numpy_generator(experiment.recipe.seed, "local baseline").permutation(sorted(clients))[:LOCAL_CLIENTS]
    tested = [] if judge.by_clients else [str(name) for name in drawn]
    scores, own = list[float](), dict[str, float]()
    chosen = [*tested, *(name for name in judge.own if name in clients and name not in tested)]
    steps = {client: usual_steps(experiment, state, client) for client in chosen}
    for client, trained in trained_apart(worker, experiment.start, {c: clients[c] for c in chosen}, steps):
        worker.tunable.write(trained)
        if client in tested:
            scores.append(judge.test(evaluator))
        if client in judge.own and (found := judge.client(evaluator, client)) is not None:
            own[client] = found
    mean = judge.mean(own) if judge.by_clients else float(np.mean(scores))
    higher_is_better = experiment.data.task.metrics[experiment.evaluator.metrics[0]]
    ordered = sorted(own.values() if judge.by_clients else scores, reverse=not higher_is_better)
    return {"mean": mean, "worst": ordered[0], "best": ordered[-1]}, own


def usual_steps(experiment: Experiment, state: RunState, client: str) -> list[int]:
    """Optimiser steps of a client in each of as many rounds as a client took part in on average."""
    each = experiment.recipe.local.steps(experiment.data.clients[client])
    clients = len(experiment.data.clients) - len(experiment.recipe.federation.without)
    return [each] * max(1, round(sum(state.steps) / clients / each))
