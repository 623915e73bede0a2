"""Clients measured one by one at the server, and how clients that train compare with clients that never do.

Two means over clients answer two questions. Weighted by predictions, every token counts alike: the loss of the group's
examples in one place. Weighted by clients, every client counts alike, however little text it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedfm.data.examples import Examples
from fedfm.records import jsonl, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.jsonl import Record
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState
from fedfm.tasks import Task

UNSEEN = "unseen"
"""Split of metrics.jsonl: a client that never trains, on all its examples."""


def measure_clients(
    experiment: Experiment,
    folder: RunFolder,
    split: str,
    number: int,
    sets: tuple[Examples, Mapping[str, np.ndarray]],
    stop: StopRequest,
) -> dict[str, dict[str, float]]:
    """Loss and metrics of the model as plugged in on each client's examples; adds their lines to metrics.jsonl.

    Args:
        experiment: the run.
        folder: of the run.
        split: of the lines.
        number: the round of the model.
        sets: examples, and client id → indices into them.
        stop: ends the run.

    Returns:
        Client id → scores; clients in whose examples nothing is predicted are absent, and events.jsonl names them.

    Raises:
        InterruptedRunError: the run was asked to stop.
    """
    examples, indices = sets
    found = {}
    for client, rows in indices.items():
        stop.check("while clients were evaluated")
        predictions = experiment.evaluator.predictions(examples, rows)
        if predictions:
            found[client] = experiment.evaluator(examples, rows)
            counts = {"examples": len(rows), "predictions": predictions}
            line = {"round": number, "split": split, "client": client, **found[client], **counts}
            folder.append(folder.metrics, line)
            continue
        reason = f"nothing is predicted in its {len(rows)} test examples"
        folder.append(folder.events, {"round": number, "kind": "not evaluated", "client": client, "reason": reason})
    return found


def measure_unseen(experiment: Experiment, folder: RunFolder, number: int, stop: StopRequest) -> None:
    """The model as plugged in, on the examples of clients that never train; see `measure_clients`."""
    measure_clients(experiment, folder, UNSEEN, number, experiment.data.unseen_sets(), stop)


def client_groups(experiment: Experiment, folder: RunFolder, state: RunState) -> dict[str, Any] | None:
    """``client_groups`` of summary.json: figures of clients that train and of ``unseen`` ones, with both weights.

    Args:
        experiment: the run.
        folder: of the run, with the lines of its clients.
        state: after the run.

    Returns:
        Group (``trained``, ``unseen``, and the same before round 1 as ``trained_before``, ``unseen_before``) → its
        `weighted` figures; groups without clients are absent. None where no client was measured.
    """
    lines = list(jsonl.records(folder.metrics, shapes.METRICS))
    delivered = state.delivered()
    last = delivered.round if experiment.recipe.evaluate.at == "server" else delivered.evaluated
    wanted = {
        "trained_before": ("client", 0),
        "trained": ("client", last),
        "unseen_before": (UNSEEN, 0),
        "unseen": (UNSEEN, delivered.round),
    }
    names = ("loss", *experiment.evaluator.metrics)
    found = {}
    for group, (split, number) in wanted.items():
        rows = [
            line for line in lines if line["split"] == split and line["round"] == number and line.get("predictions")
        ]
        if rows:
            found[group] = weighted(rows, names, experiment.data.task)
    return found or None


def weighted(rows: Sequence[Record], names: Sequence[str], task: Task) -> dict[str, Any]:
    """Two means over clients.

    Args:
        rows: a line of metrics.jsonl for each client.
        names: of the figures.
        task: says which metrics follow from the mean loss.

    Returns:
        ``clients``, ``examples`` and ``predictions`` in all; ``by_predictions`` and ``by_clients``: figure → mean over
        the clients for which it is finite. By predictions, a perplexity is exp of the mean loss; by clients it is the
        mean of the clients' perplexities.
    """
    by_predictions: dict[str, float | None] = {}
    by_clients: dict[str, float | None] = {}
    for name in names:
        known = [(row[name], row["predictions"]) for row in rows if row.get(name) is not None]
        total = sum(weight for _, weight in known)
        by_predictions[name] = math.fsum(value * weight for value, weight in known) / total if known else None
        by_clients[name] = math.fsum(value for value, _ in known) / len(known) if known else None
    loss = by_predictions["loss"]
    if loss is not None:
        by_predictions |= {name: value for name, value in task.of_loss(loss).items() if name in names}
    return {
        "clients": len(rows),
        "examples": sum(row["examples"] for row in rows),
        "predictions": sum(row["predictions"] for row in rows),
        "by_predictions": by_predictions,
        "by_clients": by_clients,
    }
