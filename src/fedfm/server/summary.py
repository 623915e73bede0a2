"""``summary.json``: the outcome of a run in figures."""

from __future__ import annotations

from typing import Any, Literal

from fedfm.params import count
from fedfm.records.environment import environment
from fedfm.server.experiment import Experiment
from fedfm.server.state import RunState

Status = Literal["completed", "interrupted", "failed"]


def summarize(
    experiment: Experiment, state: RunState, status: Status, baselines: dict[str, Any], spread: dict[str, Any] | None
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        experiment: the run.
        state: where it got to.
        status: how it ended.
        baselines: headline metric by baseline.
        spread: per-client figures, None where clients were not evaluated.
    """
    recipe = experiment.recipe
    trained = state.seconds.get("train", 0.0)
    _, model_round, final, final_round = state.delivered()
    held = {id(parameter): parameter.numel() for parameter in experiment.tunable.model.parameters()}
    best = state.best and {"round": state.best.round, "split": state.best.split, "metrics": state.best.metrics}
    return {
        "name": recipe.name,
        "status": status,
        "rounds": state.round,
        "labels": None if experiment.data.labels is None else list(experiment.data.labels.names),
        "metric": experiment.evaluator.metrics[0],
        "model_round": model_round,
        "final": final,
        "final_round": final_round,
        "initial": state.initial.get("test", {}),
        "best": best,
        "baselines": baselines,
        "clients_spread": spread,
        "proxy": None,
        "parameters": {
            "backbone": experiment.backbone_parameters,
            "client": sum(held.values()),
            "trainable": count(experiment.tunable.parameters),
        },
        "bytes": {
            "down": state.bytes_down,
            "up": state.bytes_up,
            "first_download": experiment.first_download_bytes,
        },
        "seconds": {
            phase: round(state.seconds.get(phase, 0.0), 3)
            for phase in ("total", "train", "evaluate", "aggregate", "wire")
        },
        "samples_per_second": round(state.samples / trained, 2) if trained else None,
        "privacy": None,
        "clients": {"total": recipe.federation.clients, "failed": state.failed, "refused": state.refused},
        "seed": recipe.seed,
        "versions": environment()["versions"],
    }
