"""What each client has of a run: before and after it, with the one shared model, and without the federation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedfm.clients import spread
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.client_models import ClientModels, kept_here
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState

AFTER = "after"
"""The figures of what each client holds after the run."""


def figures_by_client(
    experiment: Experiment,
    folder: RunFolder,
    state: RunState,
    baselines: Mapping[str, Mapping[str, float]],
    stop: StopRequest,
) -> dict[str, Any] | None:
    """``clients_compared`` of summary.json: the headline metric of each client, by what is measured on its examples.

    ``before`` is the model before round 1, ``after`` what the client holds at the end, ``shared`` the model that the
    run delivers to all, where clients hold others; and each of the recipe's baselines. For each but ``after``,
    ``worse_than`` names the clients whose ``after`` is worse. None where there is nothing to compare.

    Args:
        experiment: the run, whose tunable holds what it delivers.
        folder: of the run, with the figures that clients or the server have measured.
        state: after the run.
        baselines: baseline → client id → headline metric.
        stop: ends the run.

    Raises:
        InterruptedRunError: the run was asked to stop.
    """
    metric, delivered = experiment.evaluator.metrics[0], state.delivered()
    at_server = experiment.recipe.evaluate.at == "server"
    columns = {
        "before": _measured(folder, 0, metric),
        AFTER: _measured(folder, delivered.round if at_server else delivered.evaluated, metric),
        "shared": {} if at_server else _shared(experiment, folder, state, stop),
        **baselines,
    }
    columns = {name: dict(found) for name, found in columns.items() if found}
    if AFTER not in columns or len(columns) == 1:
        return None
    better = experiment.data.task.metrics[metric]
    clients = sorted(set().union(*columns.values()))
    sign = 1 if better else -1
    after = columns[AFTER]
    return {
        "metric": metric,
        "by_client": {c: {name: found[c] for name, found in columns.items() if c in found} for c in clients},
        "spread": {n: spread(list(found.values()), higher_is_better=better) for n, found in columns.items()},
        "worse_than": {
            name: [c for c in clients if c in after and c in found and sign * after[c] < sign * found[c]]
            for name, found in columns.items()
            if name != AFTER
        },
    }


def matrix(experiment: Experiment, folder: RunFolder, state: RunState, stop: StopRequest) -> dict[str, Any] | None:
    """``matrix.json``: the headline metric of each simulated client's model on each client's examples.

    ``values[i][j]`` is that of the model of client i on the examples of client j; None where nothing is predicted in
    them. None where the recipe does not ask for it, or no client has examples to evaluate on.

    Args:
        experiment: the run; its tunable is overwritten.
        folder: of the run.
        state: after the run.
        stop: ends the run.

    Raises:
        InterruptedRunError: the run was asked to stop.
        StorageError: what a client keeps cannot be read.
    """
    examples, sets = experiment.data.client_test_sets()
    if not experiment.recipe.evaluate.matrix or not sets:
        return None
    evaluator, metric = experiment.evaluator, experiment.evaluator.metrics[0]
    known = {client: rows for client, rows in sets.items() if evaluator.predicts(examples, rows)}
    models = _models(experiment, folder, state)
    values = []
    for client in sets:
        stop.check("while every client's model was evaluated on every client's examples")
        experiment.plug_in(models.of(client, state.params))
        values.append([evaluator(examples, known[c])[metric] if c in known else None for c in sets])
    return {"metric": metric, "clients": list(sets), "values": values}


def matrix_summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """Means of a matrix: of models on their own client's examples, and on those of others; None where there are none.

    Every pair counts alike.
    """
    values = np.array(found["values"], dtype=np.float64)  # None → nan
    own = np.eye(len(values), dtype=bool)
    return {"metric": found["metric"], "own": _mean(values[own]), "others": _mean(values[~own])}


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _models(experiment: Experiment, folder: RunFolder, state: RunState) -> ClientModels:
    store = kept_here(folder, experiment.recipe)
    return ClientModels.after(state, experiment.contract, experiment.recipe.protocol, store)


def _measured(folder: RunFolder, number: int, metric: str) -> dict[str, float]:
    """Client id → what metrics.jsonl has of a round."""
    lines = jsonl.records(folder.metrics, shapes.METRICS)
    own = (line for line in lines if line["split"] == "client" and line["round"] == number)
    return {line["client"]: line[metric] for line in own if line.get(metric) is not None}


def _shared(experiment: Experiment, folder: RunFolder, state: RunState, stop: StopRequest) -> dict[str, float]:
    """Client id → what the delivered model scores on its examples; empty where every client holds that model."""
    several = experiment.recipe.protocol.has_experts or _models(experiment, folder, state).differ
    return dict(_scores(experiment, stop)) if several else {}


def _scores(experiment: Experiment, stop: StopRequest) -> Iterator[tuple[str, float]]:
    evaluator = experiment.evaluator
    examples, sets = experiment.data.client_test_sets()
    for client, rows in sets.items():
        stop.check("while the shared model was evaluated on clients' examples")
        if evaluator.predicts(examples, rows):
            yield client, evaluator(examples, rows)[evaluator.metrics[0]]
