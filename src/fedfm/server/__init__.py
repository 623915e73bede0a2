"""The round loop and everything it needs at the server."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfm.server.runs.api import resume, run
    from fedfm.server.runs.artifacts import export
    from fedfm.server.runs.finished import Run
    from fedfm.server.runs.inference import evaluate, predict
    from fedfm.server.runs.planning import client_table, plan

_HOMES = {
    "Run": "runs.finished",
    "client_table": "runs.planning",
    "evaluate": "runs.inference",
    "export": "runs.artifacts",
    "plan": "runs.planning",
    "predict": "runs.inference",
    "resume": "runs.api",
    "run": "runs.api",
}

__all__ = ["Run", "client_table", "evaluate", "export", "plan", "predict", "resume", "run"]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that what is wrong with a call is told before torch is imported."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"fedfm.server.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedfm.server' has no attribute {name!r}")
