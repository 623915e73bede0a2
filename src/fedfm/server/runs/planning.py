"""The plan of a run in numbers, before any training: for the display at its start and for ``fedfm check``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedfm.clients import use_threads
from fedfm.data.settings import FILE, SITES
from fedfm.recipe import Recipe
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.federated_data import FederatedData, prepare_data
from fedfm.spec import count, empty
from fedfm.wire import stored_bytes


def plan(recipe: Recipe) -> dict[str, Any]:
    """Reads the data, loads the backbone, attaches the tunable and returns the plan of a run; trains nothing.

    ``proxy`` has ``cpu_seconds`` too: about what each stage of making it takes that is not in the cache, and one
    ``alignment``.

    Raises:
        RecipeError: the recipe does not fit the data or the model.
        DataError: a file cannot be read.
    """
    experiment = build_experiment(recipe)
    with use_threads(experiment.recipe.runtime.resolved_threads):
        planned = describe(experiment)
        if planned["proxy"]:
            planned["proxy"]["cpu_seconds"] = experiment.client_model.cpu_seconds()
    return planned


def client_table(recipe: Recipe) -> list[dict[str, Any]]:
    """The split: one row a client with its id, its training examples, their labels and its held-out examples.

    Raises:
        RecipeError: the recipe does not fit the data or the model.
        DataError: a file cannot be read.
    """
    return prepare_data(recipe).table()


def describe(experiment: Experiment) -> dict[str, Any]:
    """The plan of an experiment, as JSON."""
    recipe, training = experiment.recipe, experiment.data.training
    cohort = recipe.federation.cohort_size(len(experiment.data.clients))
    return {
        "name": recipe.name,
        "model": {
            "path": recipe.model.path,
            "name": experiment.backbone.name,
            "family": experiment.backbone.family.name,
            "digest": experiment.backbone.identity.digest,
            "parameters": experiment.backbone_parameters,
        },
        "proxy": _describe_proxy(experiment) if recipe.proxy.is_sent else None,
        "tunable": {"kind": recipe.tune.kind, "parameters": count(experiment.contract.spec)},
        "data": _describe_data(experiment.data),
        "warnings": experiment.warnings,
        "federation": {
            "clients": recipe.federation.clients,
            "per_round": cohort,
            "rounds": recipe.federation.rounds,
            "partition": _partition(recipe) if training else SITES,
            "left_out": len(training.federation.left_out) if training else 0,
        },
        "algorithm": recipe.algorithm.name,
        "bytes": _bytes(experiment, cohort),
        "privacy": None,
        "training": experiment.training,
        "device": str(experiment.device),
    }


def _describe_proxy(experiment: Experiment) -> dict[str, Any]:
    model = experiment.client_model
    return {"kind": experiment.recipe.proxy.kind, **model.sizes(), "making": model.making}


def _bytes(experiment: Experiment, cohort: int) -> dict[str, int]:
    """Bytes of messages as they cross the wire: stages, views and headers included."""
    recipe, contract, clients = experiment.recipe, experiment.contract, list(experiment.data.clients)
    asked = recipe.runtime.asked(cohort, len(clients))
    messages = recipe.protocol.messages(clients, asked, cohort)
    with_model = next((client for client in clients if client not in experiment.backbones), clients[0])
    down, up = experiment.message_bytes(with_model, 1)
    whole = stored_bytes(empty(contract.spec))
    per_round = down * messages.down + up * messages.up + whole * messages.peer
    per_round += asked * sum(experiment.choosing_bytes(with_model, 1))
    if messages.peer:  # a client gets as many tunables as it sends
        down = up = round(whole * messages.peer / len(clients))
    evaluating = 0 if recipe.evaluate.at == "server" or messages.peer else len(experiment.data.evaluating_clients())
    evaluation = evaluating * sum(contract.evaluation_bytes(clients[0], 1, experiment.evaluator.metrics))
    evaluations = 1 + -(-recipe.federation.rounds // recipe.evaluate.every)  # one of them before round 1
    return {
        "per_client_down": down,
        "per_client_up": up,
        "per_round": per_round,
        "evaluation": evaluation,
        "total": per_round * recipe.federation.rounds + evaluation * evaluations,
        "first_download": experiment.client_model.download_bytes,
        "alignment": experiment.client_model.alignment_bytes,
    }


def _partition(recipe: Recipe) -> str:
    """The kind of the split."""
    return FILE if recipe.data.client == FILE else recipe.partition.kind


def _describe_data(data: FederatedData) -> dict[str, Any]:
    sizes = list(data.clients.values())
    known = all(sizes)  # a site says how many examples it has when it joins; none has 0
    return {
        "train": sum(sizes) if known else None,
        "validation": None if data.validation is None else len(data.validation),
        "test": len(data.test),
        "labels": None if data.labels is None else list(data.labels.names),
        "client_examples": (
            {"min": min(sizes), "median": float(np.median(sizes)), "max": max(sizes)} if known else None
        ),
    }
