"""What a run is: one recipe."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfm.recipe.files import load_keys, load_recipe, read_recipe
    from fedfm.recipe.rendering import commented, dump
    from fedfm.recipe.schema import Recipe

_HOMES = {
    "Recipe": "schema",
    "commented": "rendering",
    "dump": "rendering",
    "load_keys": "files",
    "load_recipe": "files",
    "read_recipe": "files",
}

__all__ = ["Recipe", "commented", "dump", "load_keys", "load_recipe", "read_recipe"]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that listing presets does not wait for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"fedfm.recipe.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fedfm.recipe' has no attribute {name!r}")
