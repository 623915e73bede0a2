"""Parts of the schema that are still to come: refused by name, never ignored. An entry goes when its feature lands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedfm.errors import Problem

Planned = Callable[[Any], bool]


def _one_of(*names: str) -> Planned:
    return lambda value: isinstance(value, str) and value in names


def _has_any_of(*names: str) -> Planned:
    return lambda value: isinstance(value, list) and any(isinstance(name, str) and name in names for name in value)


def _is_given(value: Any) -> bool:
    return value not in (None, [])


PLANNED: dict[str, Planned] = {
    "model.dtype": _one_of("bfloat16", "float16"),
    "task.kind": _one_of("token-classification", "image-text"),
    "tune.kind": _one_of("p-tuning", "adapter", "layers"),
    "algorithm.name": _one_of("scaffold", "feddyn", "fednova", "fedadagrad", "fedbuff", "diloco", "ditto"),
    "updates": _is_given,
    "aggregate.rule": _one_of(
        "median",
        "trimmed-mean",
        "krum",
        "multi-krum",
        "bulyan",
        "geometric-median",
        "centered-clipping",
        "fltrust",
        "foolsgold",
    ),
    "privacy.kind": _one_of("central", "local"),
    "runtime.precision": _one_of("float16"),
    "report_to": _has_any_of("wandb", "mlflow", "trackio"),
}
"""Dotted key → whether a value belongs to a feature that this version does not have."""


def planned(values: Mapping[str, Any]) -> list[Problem]:
    """What a recipe asks for that this version does not have."""
    found = []
    for where, is_planned in PLANNED.items():
        value: Any = values
        for key in where.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if is_planned(value):
            subject = f"`{value}`" if isinstance(value, str) else "this"
            found.append(Problem(where, f"{subject} is not available in this version"))
    return found
