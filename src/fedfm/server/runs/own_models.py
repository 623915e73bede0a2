"""What clients with backbones of their own hold after the last round: measured on the test set, and written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedfm.clients import Worker
from fedfm.clients.state import decode_state
from fedfm.clients.store import ClientStore
from fedfm.data.examples import Examples
from fedfm.hosts.model_groups import ModelWorkers
from fedfm.params import Params
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.interrupts import StopRequest
from fedfm.server.rounds.state import RunState
from fedfm.server.runs.apart import train_alone
from fedfm.server.runs.artifacts import folder_name
from fedfm.server.runs.baselines import usual_steps

OWN, ALONE = "own model", "alone"
"""Splits of metrics.jsonl: what a client with a backbone of its own holds after the last round, and what it would hold
without the federation, both on the test set."""


class _ModelScores(NamedTuple):
    """Loss and metrics of one client's model on the test set."""

    own: dict[str, float]
    alone: dict[str, float] | None


def own_models(folder: RunFolder, experiment: Experiment, state: RunState, stop: StopRequest) -> list[dict[str, Any]]:
    """Measures and writes the models of at most ``evaluate.clients`` clients with backbones of their own.

    Each model is written to ``clients/ID/adapter/`` or, where what is tuned is no adapter, ``clients/ID/model/``. With
    ``evaluate.baselines: [local]``, each client is also trained alone, from the same start with as many optimiser steps
    on its own data, but without what it learns from others.

    Args:
        folder: the run's folder; gets a line of metrics for each model.
        experiment: the run.
        state: after the run.
        stop: ends the run.

    Returns:
        For each of `federation.models`: ``model``, ``clients`` that have it, ``measured`` clients, and the mean of each
        figure over these, ``final`` and ``alone`` (None where it was not measured). Empty without such models.

    Raises:
        InterruptedRunError: the run was asked to stop.
        StorageError: what a client keeps cannot be read, or a model cannot be written.
    """
    workers, data = experiment.worker, experiment.data
    if not isinstance(workers, ModelWorkers):
        return []
    chosen, found = data.clients_with_adapters(), list[dict[str, Any]]()
    with folder.replacing(folder.client_models) as beside:
        for place, model in enumerate(experiment.recipe.federation.models):
            clients = [client for client in chosen if workers.places.get(client) == place]
            scores = _measured(beside, folder, experiment, state, workers.at(place), clients, stop)
            everyone = sum(of == place for of in workers.places.values())
            alone = [each.alone for each in scores if each.alone is not None]
            figures = {"final": _mean([each.own for each in scores]), "alone": _mean(alone)}
            found.append({"model": model.path, "clients": everyone, "measured": len(scores), **figures})
    return found


def _measured(
    beside: Path,
    folder: RunFolder,
    experiment: Experiment,
    state: RunState,
    worker: Worker,
    clients: Sequence[str],
    stop: StopRequest,
) -> list[_ModelScores]:
    """Scores of clients with one backbone; writes their models into ``beside``."""
    data, store, found = experiment.data, ClientStore(folder.client_state), list[_ModelScores]()
    if not clients:
        return []
    test = data.task.encode(data.test_source, experiment.recipe.data, worker.processor, data.labels)
    for client in clients:
        stop.check("while the clients' own models were evaluated")
        worker.tunable.write(_held(worker, store, state, client))
        kind = "adapter" if worker.tunable.is_adapter else "model"
        worker.tunable.save(beside / folder_name(client) / kind, None)
        own, alone = _scores(worker, test), None
        if "local" in experiment.recipe.evaluate.baselines:
            start = dict(worker.contract.start)
            train_alone(worker, start, worker.clients[client], client, usual_steps(experiment, state, client))
            alone = _scores(worker, test)
        for split, scores in ((OWN, own), (ALONE, alone)):
            if scores is not None:
                line = {"round": state.round, "split": split, "client": client, **scores, "examples": len(test)}
                folder.append(folder.metrics, line)
        found.append(_ModelScores(own, alone))
    return found


def _held(worker: Worker, store: ClientStore, state: RunState, client: str) -> Params:
    """The tunable of a client: as initialised before its first round."""
    version = state.versions.get(client)
    kept = None if version is None else store.get(client, version.number, sha256=version.sha256)
    return worker.contract.at_client(client, state.round, {}, {} if kept is None else decode_state(kept))


def _scores(worker: Worker, test: Examples) -> dict[str, float]:
    if worker.evaluator is None:
        raise ValueError("a worker without an evaluator measures nothing")
    return worker.evaluator(test)


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """Mean of each figure over clients; None without any."""
    return {name: float(np.mean([each[name] for each in scores])) for name in scores[0]} if scores else None
