"""The round loop and everything it needs at the server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfm.server.experiment.build import Experiment, build_experiment
    from fedfm.server.experiment.deployment import Simulation
    from fedfm.server.runs.api import resume, run
    from fedfm.server.runs.artifacts import export
    from fedfm.server.runs.asking import ask
    from fedfm.server.runs.auditing import audit
    from fedfm.server.runs.code_problems import pass_at_k
    from fedfm.server.runs.finished import Run
    from fedfm.server.runs.forgetting import forget
    from fedfm.server.runs.inference import evaluate, predict
    from fedfm.server.runs.judging import judge
    from fedfm.server.runs.planning import data_overview, plan
    from fedfm.server.runs.proxy_tools import build_proxy

_HOMES = {
    "Experiment": "experiment.build",
    "Run": "runs.finished",
    "Simulation": "experiment.deployment",
    "ask": "runs.asking",
    "audit": "runs.auditing",
    "build_experiment": "experiment.build",
    "build_proxy": "runs.proxy_tools",
    "data_overview": "runs.planning",
    "evaluate": "runs.inference",
    "export": "runs.artifacts",
    "forget": "runs.forgetting",
    "judge": "runs.judging",
    "pass_at_k": "runs.code_problems",
    "plan": "runs.planning",
    "predict": "runs.inference",
    "resume": "runs.api",
    "run": "runs.api",
}

__all__ = [
    "Experiment",
    "Run",
    "Simulation",
    "ask",
    "audit",
    "build_experiment",
    "build_proxy",
    "data_overview",
    "evaluate",
    "export",
    "forget",
    "judge",
    "pass_at_k",
    "plan",
    "predict",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that errors in a call are reported before torch is imported."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"fedfm.server.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedfm.server' has no attribute {name!r}")
