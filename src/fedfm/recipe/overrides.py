"""Dotted overrides: ``local.learning_rate=1e-3``, ``tune={kind: ia3}``, ``data.client=null``.

The value is YAML, as in a file. An override of the key that selects a group's kind (``tune.kind``, ``algorithm.name``,
``aggregate.rule``, …) resets the group: the file's other keys in it are dropped, while all overrides apply, in any
order. Only ``runtime`` keeps the keys that all its kinds share, so that the same recipe gives the same bits on every
runtime. All other overrides set a single key.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fedfm.errors import Problem, RecipeError
from fedfm.recipe.fields import SELECTORS
from fedfm.yaml_text import YamlError, parse

KEPT = {"runtime": ("stack", "device", "precision", "threads", "link", "watts")}
"""Group → the keys that are kept when its kind is overridden."""


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's values with overrides applied in order.

    Raises:
        RecipeError: an override is not KEY=VALUE, or a part of its key is a plain value.
    """
    changed = copy.deepcopy(dict(values))
    assignments = [_parsed(override) for override in overrides]
    for keys, _ in assignments:
        if len(keys) > 1 and keys[-1] in SELECTORS:
            _reset(changed, keys[:-1])
    for keys, value in assignments:
        _set(changed, keys, value)
    return changed


def _reset(values: dict[str, Any], group: Sequence[str]) -> None:
    before = values.get(group[0])
    kept = before if isinstance(before, dict) else {}
    _set(values, group, {key: kept[key] for key in KEPT.get(".".join(group), ()) if key in kept})


def _parsed(override: str) -> tuple[list[str], Any]:
    """Keys and value of ``a.b=value``."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise _error(f"an override is written KEY=VALUE, such as federation.rounds=5 (got `{override}`)", "")
    if not text.strip():
        raise _error("has no value; write null for none, '' for empty text", path.strip())
    if len(text) == 1 and not text.isalnum() and text != "~":  # a delimiter, which is not valid YAML by itself
        return keys, text
    try:
        return keys, parse(text)
    except YamlError as error:
        raise _error(f"cannot read the value `{text}`: {error}", path.strip()) from error


def _set(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Sets one dotted key, and creates missing groups."""
    for depth, key in enumerate(keys[:-1], start=1):
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            raise _error(f"cannot be set: `{'.'.join(keys[:depth])}` is a plain value, not a group", ".".join(keys))
    values[keys[-1]] = value


def _error(message: str, where: str) -> RecipeError:
    return RecipeError([Problem(where, message)], source="override")
