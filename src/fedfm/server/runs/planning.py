"""The plan of a run in numbers, before any training: for the display at its start and for ``fedfm check``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fedfm.clients import use_threads
from fedfm.data.settings import FILE, SITES
from fedfm.privacy import Promise
from fedfm.recipe import Recipe
from fedfm.server.advice import PlanFacts, advise
from fedfm.server.advice.timing import time_steps
from fedfm.server.experiment.build import Experiment, build_experiment
from fedfm.server.experiment.federated_data import FederatedData, prepare_data
from fedfm.server.rounds.costs import CostBook
from fedfm.server.runs.residuals import residual_bytes
from fedfm.spec import count, empty
from fedfm.wire import TUNABLE, stored_bytes


def plan(recipe: Recipe, *, timed: bool = False) -> dict[str, Any]:
    """Reads the data, loads the backbone, attaches the tunable and returns the plan of a run.

    ``memory`` has the bytes that training needs at a client, an estimate. ``advice`` has warnings about a recipe that
    can be run but may disappoint, each with its key (``where``). ``time`` has, with ``timed``, seconds from a few local
    steps, which are thrown away: ``step``, ``client`` (computation of the median client's round), ``link`` (its
    messages, by ``runtime.link``), ``round`` (both) and ``run`` (all rounds, where each client has a machine like this
    one). ``proxy`` has ``cpu_seconds`` too: about what each stage of making it takes that is not in the cache, and one
    ``alignment``.

    Args:
        recipe: of the run.
        timed: take a few local steps; otherwise nothing is trained.

    Raises:
        RecipeError: the recipe does not fit the data or the model.
        DataError: a file cannot be read.
    """
    experiment = build_experiment(recipe)
    with use_threads(experiment.recipe.runtime.resolved_threads):
        planned = describe(experiment)
        if planned["proxy"]:
            planned["proxy"]["cpu_seconds"] = experiment.client_model.cpu_seconds()
        facts = PlanFacts(experiment, CostBook(experiment), time_steps(experiment) if timed else None)
        planned["memory"] = _memory(facts)
        planned["time"] = _time(facts)
        planned["advice"] = [asdict(advice) for advice in advise(facts)]
    return planned


def _memory(facts: PlanFacts) -> int | None:
    """Bytes that training needs at the client that needs most."""
    needed = [facts.costs.memory(client) for client in facts.experiment.data.clients]
    return max((size for size in needed if size is not None), default=None)


def _time(facts: PlanFacts) -> dict[str, float | None] | None:
    """Expected seconds; None where no steps were taken."""
    compute, link = facts.compute_seconds, facts.link_seconds
    if facts.timing is None or compute is None:
        return None
    each = compute + (link or 0.0)
    run = each * facts.recipe.federation.rounds
    return {"step": facts.timing.seconds_a_step, "client": compute, "link": link, "round": each, "run": run}


SHOWN = 3
"""How many encoded examples `data_overview` returns."""


def data_overview(recipe: Recipe) -> dict[str, Any]:
    """The data of a run, split and encoded.

    Returns:
        ``clients``: one row a client with its id, its training examples, their labels and its held-out examples.
        ``split``: where the examples shown are from. ``examples``: the first of them; each with ``tokens`` and, of an
        encoder-decoder, ``targets`` (id, text, and whether it is learnt), ``label``, ``image`` (its shape), ``cut``
        (number of tokens that were cut off) and ``client``. ``warnings``: sentences about the data.

    Raises:
        RecipeError: the recipe does not fit the data or the model.
        DataError: a file cannot be read.
    """
    data = prepare_data(recipe)
    examples = data.test if data.training is None else data.training.train
    owners = {} if data.training is None else _owners(data.training.federation.train)
    names = None if data.labels is None else data.labels.names
    first = np.arange(min(SHOWN, len(examples)))
    return {
        "clients": data.table(),
        "split": "test" if data.training is None else "train",
        "examples": [
            {
                **asdict(data.task.show(row, data.processor, names)),
                "cut": 0 if examples.cut is None else int(examples.cut[number]),
                "client": owners.get(number),
            }
            for number, row in enumerate(examples.take(first))
        ],
        "warnings": data.warnings,
    }


def _owners(federation: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Example → the client that trains on it, of the examples that are shown."""
    return {number: client for client, held in federation.items() for number in held[held < SHOWN].tolist()}


def describe(experiment: Experiment, promise: Promise | None = None) -> dict[str, Any]:
    """The plan of an experiment, as JSON.

    Args:
        experiment: the run.
        promise: about clients' privacy, of a run that has begun; None: as the recipe gives it.
    """
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
        "protocol": {"kind": recipe.protocol.kind, **recipe.protocol.planned(list(experiment.data.clients))},
        "bytes": _bytes(experiment, cohort),
        "privacy": _privacy(experiment, promise or experiment.promise),
        "secure": recipe.secure.statement,
        "training": experiment.training,
        "device": str(experiment.device),
    }


def _privacy(experiment: Experiment, promise: Promise | None) -> dict[str, Any] | None:
    """What a promise costs when all rounds are released once, or as many as the budget allows; None: no promise."""
    kind, rounds = experiment.recipe.privacy.kind, experiment.recipe.federation.rounds
    if experiment.example_promise is not None:
        return {"kind": kind, **experiment.example_promise.planned(experiment.data.clients.values())}
    if promise is None:
        return None
    last = promise.affordable({}, 1, rounds)
    return {"kind": kind, **promise.figures(dict.fromkeys(range(1, last + 1), 1))}


def _describe_proxy(experiment: Experiment) -> dict[str, Any]:
    model = experiment.client_model
    return {"kind": experiment.recipe.proxy.kind, **model.sizes(), "making": model.making}


def _bytes(experiment: Experiment, cohort: int) -> dict[str, int]:
    """Bytes of messages as they cross the wire: stages, views and headers included."""
    recipe, contract, clients = experiment.recipe, experiment.contract, list(experiment.data.clients)
    asked = recipe.runtime.asked(cohort, len(clients))
    protocol = recipe.protocol
    count_messages = protocol.messages if experiment.data.training is not None else protocol.messages_of_sites
    messages = count_messages(clients, asked, cohort)
    with_model = next((client for client in clients if client not in experiment.backbones), clients[0])
    sizes = [experiment.message_bytes(with_model, number) for number in range(1, contract.views.period + 1)]
    down, up = (round(sum(size) / len(sizes)) for size in zip(*sizes, strict=True))  # means over rounds that differ
    whole = stored_bytes(empty(contract.spec))
    edge = stored_bytes(empty(contract.peer.spec(contract.before_peers)[TUNABLE]))
    per_round = down * messages.down + up * messages.up + round(edge * messages.peer) + round(whole * messages.relay)
    per_round += asked * sum(experiment.choosing_bytes(with_model, 1))
    if messages.peer:  # a client gets as many messages as it sends
        down = up = round(edge * messages.peer / len(clients))
    evaluating = 0 if recipe.evaluate.at == "server" or messages.peer else len(experiment.data.evaluating_clients())
    evaluation = evaluating * sum(contract.evaluation_bytes(clients[0], 1, experiment.evaluator.metrics))
    residual = residual_bytes(experiment)
    evaluations = 1 + -(-recipe.federation.rounds // recipe.evaluate.every)  # one of them before round 1
    return {
        "per_client_down": down,
        "per_client_up": up,
        "per_round": per_round,
        "evaluation": evaluation,
        "residual": residual,
        "total": per_round * recipe.federation.rounds + evaluation * evaluations + residual,
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
        "cut": {split: int(np.count_nonzero(cut)) for split, cut in data.cut.items()},
        "client_examples": (
            {"min": min(sizes), "median": float(np.median(sizes)), "max": max(sizes)} if known else None
        ),
    }
