"""``summary.json``: the outcome of a run in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fedfm.params import count
from fedfm.records.client_scores import ScoreTotals
from fedfm.records.costs import CostTotals
from fedfm.records.environment import environment
from fedfm.records.ledger import LAYER
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.participation import summary_of
from fedfm.server.rounds.state import RunState
from fedfm.server.rounds.task_scores import stream_summary

Status = Literal["completed", "budget", "interrupted", "failed"]
"""`budget`: ended before its last round, because another would have exceeded the privacy budget."""


def summarize(
    experiment: Experiment,
    state: RunState,
    status: Status,
    baselines: dict[str, Any],
    spread: dict[str, Any] | None,
    proxy: dict[str, Any] | None,
    costs: CostTotals,
    privacy: dict[str, Any] | None,
    scores: ScoreTotals,
    models: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        experiment: the run.
        state: the run's state.
        status: how the run ended.
        baselines: headline metric by baseline.
        spread: per-client figures, None where clients were not evaluated.
        proxy: figures of the proxy; None without a proxy, or where it was not measured.
        costs: of the run.
        privacy: what was promised and spent; None where nothing is promised.
        scores: of the clients' contributions.
        models: figures of the clients' own backbones, as `own_models`.
    """
    split, contribution = experiment.judged_split, experiment.recipe.contribution
    delivered = state.delivered(split)
    refined = state.refined.scores.get(split) if state.refined else None
    return {
        "name": experiment.recipe.name,
        "status": status,
        "rounds": state.round,
        "labels": None if experiment.data.labels is None else list(experiment.data.labels.names),
        "metric": experiment.evaluator.metrics[0],
        "model_round": delivered.round,
        "final": refined or delivered.metrics,
        "final_round": delivered.evaluated,
        "final_by": experiment.judged_by,
        "evaluate_at": experiment.recipe.evaluate.at,
        "initial": state.initial.get(split, {}),
        "best": state.best and {"round": state.best.round, "split": state.best.split, "metrics": state.best.metrics},
        "baselines": baselines,
        "clients_spread": spread,
        "stream": stream_summary(experiment, state.tasks, state.latest),
        "models": list(models),
        "proxy": proxy,
        "contribution": scores.summary(contribution.kind) if contribution.scores_clients else None,
        "protocol": _protocol(experiment, state),
        "mean_of_clients": experiment.recipe.protocol.own_tunable is not None,
        "mean_of_experts": experiment.recipe.protocol.has_experts,
        "personal": _personal(experiment),
        "personal_values": "mean" if experiment.data.training is not None else "initial",
        "parameters": _parameters(experiment),
        "bytes": {
            "down": state.bytes_down,
            "up": state.bytes_up,
            "first_download": experiment.client_model.download_bytes,
        },
        "costs": costs.summary(experiment.recipe.runtime.watts),
        **_times(state),
        "privacy": privacy,
        "secure": experiment.recipe.secure.statement,
        "clients": _clients(experiment, state),
        "warnings": experiment.warnings,
        "repeats": [
            {"split": found.split, "other": found.other, "examples": found.examples, "total": found.total}
            for found in experiment.data.repeats
        ],
        "seed": experiment.recipe.seed,
        "versions": environment()["versions"],
    }


def _protocol(experiment: Experiment, state: RunState) -> dict[str, Any]:
    """The kind of the protocol, and its figures at the end of the run."""
    protocol = experiment.recipe.protocol
    return {"kind": protocol.kind, **protocol.figures(state.protocol)}


def _personal(experiment: Experiment) -> list[str]:
    """Names of the tensors that each client keeps for itself, with ``*`` for the number of the layer."""
    return list(dict.fromkeys(LAYER.sub("*", name) for name in sorted(experiment.contract.personal)))


def _parameters(experiment: Experiment) -> dict[str, int]:
    """Numbers of parameters; a parameter that a client's model uses twice counts once."""
    held = {id(parameter): parameter.numel() for parameter in experiment.client_model.client_tunable.model.parameters()}
    return {
        "backbone": experiment.backbone_parameters,
        "client": sum(held.values()),
        "trainable": count(experiment.client_model.client_tunable.parameters),
    }


def _times(state: RunState) -> dict[str, Any]:
    """Wall time by phase, and the speed of training."""
    phases = ("total", "train", "evaluate", "aggregate", "wire", "proxy")
    trained = state.seconds.get("train", 0.0)
    return {
        "seconds": {phase: round(state.seconds.get(phase, 0.0), 3) for phase in phases},
        "samples_per_second": round(state.samples / trained, 2) if trained else None,
    }


def _clients(experiment: Experiment, state: RunState) -> dict[str, Any]:
    """Counts over all clients, and what single clients contributed."""
    return {
        "total": experiment.recipe.federation.clients,
        "failed": state.failed,
        "refused": state.refused,
        **summary_of(state.contributions, experiment.data.clients, all_by_name=experiment.data.training is None),
    }


def proxy_figures(experiment: Experiment, state: RunState) -> dict[str, Any] | None:
    """The proxy in summary.json: its sizes and its metrics with the tuned parameters; None for a run without a proxy.

    ``plugged`` are the backbone's metrics on the test set with the tuned parameters as they are, ``distilled`` those
    after plug-in distillation, None where its outcome was not kept. ``plug_in_gap`` is the headline metric of the
    backbone as delivered minus that of the proxy with the tuned parameters; it is positive where the backbone is
    better. ``plug_in_gap`` and ``final`` are None where the delivered parameters are those of a round after which the
    proxy was realigned.
    """
    version, sizes = state.proxy, experiment.client_model.sizes()
    if version is None or not sizes:
        return None
    metric = experiment.evaluator.metrics[0]
    sign = 1 if experiment.data.task.metrics[metric] else -1
    delivered, best = state.delivered(), state.best
    realigned = best is not None and delivered.round != state.round and best.proxy_version != version.number
    own = None if realigned else experiment.evaluate_client_model(delivered.params)
    distilled = state.refined.scores.get("test") if state.refined else None
    backbone = distilled or delivered.metrics
    return {
        "kind": experiment.recipe.proxy.kind,
        "title": experiment.recipe.proxy.title,
        "version": version.number,
        **sizes,
        "initial": state.initial["proxy"],
        "final": own,
        "plugged": delivered.metrics,
        "distilled": distilled,
        "plug_in_gap": None if own is None else sign * (backbone[metric] - own[metric]),
        "first_download": experiment.client_model.download_bytes,
        "seconds": round(state.seconds.get("proxy", 0.0), 3),
    }
