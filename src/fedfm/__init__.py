"""fedfm: adapt a foundation model to data that cannot be brought together.

In short:

    from fedfm import run

    finished = run("demo")      # a preset, a recipe file, or a Recipe
    finished.summary["final"]   # {"loss": …, "accuracy": …}
    finished.metrics            # pandas, a row for each round and split
    finished.model              # the backbone with what was tuned, on the CPU
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfm.errors import FedfmError
    from fedfm.recipe import Recipe, load_recipe
    from fedfm.server import (
        Experiment,
        Run,
        Simulation,
        ask,
        build_experiment,
        build_proxy,
        evaluate,
        export,
        forget,
        judge,
        plan,
        predict,
        resume,
        run,
    )
    from fedfm.trackers.listeners import Listener

__version__ = "0.1.0"

_HOMES = {
    "Experiment": "fedfm.server",
    "FedfmError": "fedfm.errors",
    "Listener": "fedfm.trackers.listeners",
    "Recipe": "fedfm.recipe",
    "Run": "fedfm.server",
    "Simulation": "fedfm.server",
    "ask": "fedfm.server",
    "build_experiment": "fedfm.server",
    "build_proxy": "fedfm.server",
    "evaluate": "fedfm.server",
    "export": "fedfm.server",
    "forget": "fedfm.server",
    "judge": "fedfm.server",
    "load_recipe": "fedfm.recipe",
    "plan": "fedfm.server",
    "predict": "fedfm.server",
    "resume": "fedfm.server",
    "run": "fedfm.server",
}

__all__ = [
    "Experiment",
    "FedfmError",
    "Listener",
    "Recipe",
    "Run",
    "Simulation",
    "__version__",
    "ask",
    "build_experiment",
    "build_proxy",
    "evaluate",
    "export",
    "forget",
    "judge",
    "load_recipe",
    "plan",
    "predict",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that ``import fedfm`` stays quick (no torch)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedfm' has no attribute {name!r}")
