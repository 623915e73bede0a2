"""``summary.json``: the outcome of a run in figures."""

from __future__ import annotations

from typing import Any, Literal

from fedfm.params import count
from fedfm.records.environment import environment
from fedfm.server.rounds.participation import summary_of
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState

Status = Literal["completed", "interrupted", "failed"]


def summarize(
    experiment: Experiment,
    state: RunState,
    status: Status,
    baselines: dict[str, Any],
    spread: dict[str, Any] | None,
    proxy: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        experiment: the run.
        state: where it got to.
        status: how it ended.
        baselines: headline metric by baseline.
        spread: per-client figures, None where clients were not evaluated.
        proxy: the proxy's own figures, None where there is none or it was not measured.
    """
    recipe = experiment.recipe
    trained = state.seconds.get("train", 0.0)
    delivered = state.delivered()
    held = {id(parameter): parameter.numel() for parameter in experiment.at_clients.model.parameters()}
    best = state.best and {"round": state.best.round, "split": state.best.split, "metrics": state.best.metrics}
    return {
        "name": recipe.name,
        "status": status,
        "rounds": state.round,
        "labels": None if experiment.data.labels is None else list(experiment.data.labels.names),
        "metric": experiment.evaluator.metrics[0],
        "model_round": delivered.round,
        "final": delivered.metrics,
        "final_round": delivered.evaluated,
        "initial": state.initial.get("test", {}),
        "best": best,
        "baselines": baselines,
        "clients_spread": spread,
        "proxy": proxy,
        "parameters": {
            "backbone": experiment.backbone_parameters,
            "client": sum(held.values()),
            "trainable": count(experiment.at_clients.parameters),
        },
        "bytes": {
            "down": state.bytes_down,
            "up": state.bytes_up,
            "first_download": experiment.first_download_bytes,
        },
        "seconds": {
            phase: round(state.seconds.get(phase, 0.0), 3)
            for phase in ("total", "train", "evaluate", "aggregate", "wire", "proxy")
        },
        "samples_per_second": round(state.samples / trained, 2) if trained else None,
        "privacy": None,
        "clients": {
            "total": recipe.federation.clients,
            "failed": state.failed,
            "refused": state.refused,
            **summary_of(state.contributions, experiment.data.clients, all_by_name=experiment.data.training is None),
        },
        "warnings": experiment.warnings,
        "repeats": [
            {"split": found.split, "other": found.other, "examples": found.examples, "total": found.total}
            for found in experiment.data.repeats
        ],
        "seed": recipe.seed,
        "versions": environment()["versions"],
    }


def proxy_figures(experiment: Experiment, state: RunState) -> dict[str, Any] | None:
    """What summary.json says of the proxy: its sizes, and its own metrics with what was tuned; None without one.

    ``plug_in_gap`` is how much better the backbone is than the proxy, in the headline metric, with what was tuned. It
    and ``final`` are None where a round is delivered whose proxy has been realigned since.
    """
    proxy, version = experiment.proxy, state.proxy
    if proxy is None or version is None:
        return None
    metric = experiment.evaluator.metrics[0]
    sign = 1 if experiment.data.task.metrics[metric] else -1
    delivered, best = state.delivered(), state.best
    realigned = best is not None and delivered.round != state.round and best.proxy_version != version.number
    own = None if realigned else experiment.evaluate_proxy(delivered.params)
    return {
        "kind": proxy.settings.kind,
        "version": version.number,
        **proxy.sizes(),
        "initial": state.initial["proxy"],
        "final": own,
        "plug_in_gap": None if own is None else sign * (delivered.metrics[metric] - own[metric]),
        "first_download": experiment.first_download_bytes,
        "seconds": round(state.seconds.get("proxy", 0.0), 3),
    }
