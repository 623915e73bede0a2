"""Loads a recipe from a file, from a preset's name or from a mapping."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fedfm.errors import Problem, RecipeError
from fedfm.recipe.index import checked_keys
from fedfm.recipe.overrides import apply_overrides
from fedfm.recipe.presets import PRESETS, preset_text
from fedfm.settings import Settings
from fedfm.spelling import nearest
from fedfm.yaml_text import YamlError, parse

if TYPE_CHECKING:
    from fedfm.recipe.schema import Recipe

S = TypeVar("S", bound=Settings)

GIVEN = ("train", "validation", "test", "public")
"""Keys of the data that can be passed from Python."""


def load_recipe(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    data: Mapping[str, Any] | None = None,
    **methods: Any,
) -> Recipe:
    """Loads a recipe from a YAML file, from a preset's name (`fedfm ls`) or from a mapping.

    The keys of a file are checked before the classes behind them are imported, so that typing errors are reported at
    once. Afterwards, combinations of keys are checked.

    Args:
        source: a name with a path separator or an ending is a file; other names are a preset or, failing that, a file.
        overrides: dotted assignments such as ``federation.rounds=5``, applied in order; see `recipe.overrides`.
        data: replaces the recipe's ``train``, ``validation``, ``test`` or ``public`` data. Values are a pandas
            DataFrame or a `datasets.Dataset`, which are stored in the cache for the run and for resuming it, or a
            recipe's values.
        methods: objects in place of the recipe's ``algorithm``, ``tune``, ``updates`` (a list), ``aggregate``, …; their
            classes may be the caller's own, and are known to this process from then on.

    Raises:
        RecipeError: the recipe cannot be read or is not valid; lists every problem.
    """
    if isinstance(source, Mapping):
        name, values = "recipe", apply_overrides(source, overrides)
    else:
        name, values = _read(source, overrides)
    if data:
        values = _with_data(values, data, name)
    values = {key: value for key, value in values.items() if key not in methods}
    if not isinstance(source, Mapping):
        _checked_by(name, checked_keys, values)
    from fedfm.recipe.schema import Recipe

    return _checked_by(name, Recipe.model_validate, {**values, **methods})


def read_recipe(source: str | Path, overrides: Sequence[str] = ()) -> tuple[str, dict[str, Any], list[Problem]]:
    """Reads a file or preset even if some of its keys are invalid.

    Returns:
        Its name for messages, its values with the overrides, and the problems of single keys.

    Raises:
        RecipeError: the recipe cannot be read.
    """
    name, values = _read(source, overrides)
    try:
        checked_keys(values)
    except RecipeError as error:
        return name, values, error.problems
    return name, values, []


def load_keys(source: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """As `load_recipe`, but checks only single keys; fast, since the classes behind the keys are not imported.

    Raises:
        RecipeError: the recipe cannot be read, or keys are unknown or have invalid values; lists every problem.
    """
    name, values = _read(source, overrides)
    return _checked_by(name, checked_keys, values)


def _checked_by(name: str, check: Callable[[dict[str, Any]], S], values: dict[str, Any]) -> S:
    """Applies a check to a recipe's values; its error names the file."""
    try:
        return check(values)
    except RecipeError as error:
        raise RecipeError(error.problems, source=name) from None


def _with_data(values: Mapping[str, Any], data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A recipe's values with references to data from Python. It is stored first, since checks copy all values."""
    from fedfm.data.settings import reference_to  # imports the data and models packages

    changed = dict(values)
    for split, given in data.items():
        if split not in GIVEN:
            raise RecipeError(f"no such data; available: {', '.join(GIVEN)}", where=f"data.{split}", source=name)
        group, key = ("public", "data") if split == "public" else ("data", split)
        known = changed.get(group) or {}
        if not isinstance(known, Mapping):
            raise RecipeError("is a plain value, not a group", where=group, source=name)
        try:
            changed[group] = {**known, key: reference_to(given, "train" if split == "public" else split)}
        except ValueError as error:
            raise RecipeError(str(error), where=f"{group}.{key}", source=name) from error
    return changed


def _read(source: str | Path, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The name of a file or preset for messages, and its values with overrides."""
    name = str(source)
    text = preset_text(name) if isinstance(source, str) and name in PRESETS else _file_text(Path(source))
    try:
        values = parse(text)
    except YamlError as error:
        raise RecipeError(str(error), source=f"{name}:{error.line}" if error.line else name) from error
    if not isinstance(values, dict):
        what = "is empty" if values is None else "has no keys"
        raise RecipeError(f"{what}: a recipe has `key: value` lines (`fedfm cp NAME FILE` writes one)", source=name)
    return name, apply_overrides(values, overrides)


def _file_text(path: Path) -> str:
    """The text of a recipe file."""
    path = Path(os.path.normpath(path.expanduser()))
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        close = nearest(path.stem, PRESETS)
        hint = f" — did you mean the preset `{close}`?" if close else ""
        presets = ", ".join(PRESETS)
        raise RecipeError(f"no such file: {path.absolute()}; presets: {presets}{hint}", source=str(path)) from error
    except IsADirectoryError as error:
        what = "is a folder; give the path of the recipe file in it"
        if (path / "recipe.yaml").is_file():
            what = (
                f"is the folder of a run: `fedfm resume {path}` continues it, "
                f"`fedfm run {path / 'recipe.yaml'} name=OTHER` runs its recipe again"
            )
        raise RecipeError(what, source=str(path)) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", source=str(path)) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", source=str(path)) from error
    except ValueError as error:  # the path contains NUL
        raise RecipeError(f"cannot be read: {error}", source=repr(str(path))) from error
