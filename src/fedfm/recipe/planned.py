"""Parts of the schema that are still to come: refused by name, never ignored.

A name is planned for as long as no class of that name exists: what is added needs no change here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedfm.errors import Problem
from fedfm.recipe.fields import SELECTORS, kinds
from fedfm.settings import Settings

PLANNED: dict[str, tuple[str, ...]] = {
    "model.dtype": ("bfloat16", "float16"),
    "task.kind": ("image-text",),
    "tune.kind": ("p-tuning", "adapter", "layers"),
    "algorithm.name": ("scaffold", "feddyn", "fednova", "fedadagrad", "fedexp", "diloco"),
    "updates.kind": ("clip", "quantize", "top-k", "random-k", "power-sgd", "sign"),
    "aggregate.rule": (
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
    "runtime.precision": ("float16",),
    "report_to": ("wandb", "mlflow", "trackio"),
}
"""Dotted key → values of it, or of an element of its list, that this version does not have."""


def planned(values: Mapping[str, Any], model: type[Settings]) -> list[Problem]:
    """What a recipe asks for that this version does not have.

    Args:
        values: the recipe's.
        model: the class of a whole recipe; a name that it knows is not planned any more.
    """
    return [
        Problem(where, f"`{value}` is not available in this version")
        for key, names in PLANNED.items()
        for where, value in _found(values, key)
        if isinstance(value, str) and value in names and value not in _known(model, key)
    ]


def _found(values: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Where a dotted key is in a recipe's values, and its value; of a list, each of its elements."""
    places = [("", values)]
    for part in key.split("."):
        inner = [
            (f"{where}.{part}".lstrip("."), v[part]) for where, v in places if isinstance(v, Mapping) and part in v
        ]
        places = [place for where, value in inner for place in _elements(where, value)]
    yield from places


def _elements(where: str, value: Any) -> list[tuple[str, Any]]:
    return [(f"{where}[{i}]", part) for i, part in enumerate(value)] if isinstance(value, list) else [(where, value)]


def _known(model: type[Settings], key: str) -> tuple[str, ...]:
    """The names that a key which chooses a kind may have."""
    group, _, chooser = key.partition(".")
    field = model.model_fields.get(group)
    return kinds(field) if field is not None and chooser in SELECTORS else ()
