"""From untrusted values to a recipe: features to come, faulty keys and conflicts between keys, all at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from fedfm.errors import Problem, RecipeError
from fedfm.recipe.fields import SELECTORS, selector, settings_classes
from fedfm.recipe.planned import planned
from fedfm.recipe.problems import explain, overlap
from fedfm.registry import name_of
from fedfm.settings import Settings
from fedfm.yaml_text import is_writable

S = TypeVar("S", bound=Settings)


def checked(
    model: type[S],
    values: Any,
    validate: Callable[[Any], S],
    conflicts: Callable[[S, Sequence[str]], list[Problem]],
) -> S:
    """A sound recipe.

    Args:
        model: the recipe's class.
        values: what the user gave.
        validate: pydantic's own validation of ``model``.
        conflicts: what is wrong between the keys of a recipe whose faulty keys were left out; gets these keys.

    Raises:
        RecipeError: with every problem that can be found.
    """
    if not isinstance(values, Mapping):
        return validate(values)
    recipe, problems = _key_by_key(model, values, validate)
    if recipe is not None:
        problems += conflicts(recipe, [problem.where for problem in problems])
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe


def keys_checked(model: type[S], values: Mapping[str, Any], validate: Callable[[Any], S]) -> S:
    """As `checked`, for single keys only: choices that exclude each other pass.

    Raises:
        RecipeError: with every faulty key.
    """
    recipe, problems = _key_by_key(model, values, validate)
    if problems or recipe is None:
        raise RecipeError(problems)
    return recipe


def _key_by_key(
    model: type[S], values: Mapping[str, Any], validate: Callable[[Any], S]
) -> tuple[S | None, list[Problem]]:
    """The recipe without its faulty keys, if that is one; and what is wrong with them."""
    values = _with_default_kinds(model, values)
    problems = [*planned(values, model), *_unwritable(values)]
    sound = _without(values, problems)
    try:
        return validate(sound), problems
    except ValidationError as error:
        faults = explain(error, model, values)
        problems += [fault for fault in faults if not any(overlap(fault.where, known.where) for known in problems)]
        return _rest(validate, _without(sound, faults)), problems


def _unwritable(values: Mapping[str, Any], group: str = "") -> list[Problem]:
    """Texts that no file can hold: the recipe is written down, and many of them name files."""
    found = []
    for key, value in values.items():
        where = f"{group}.{key}".lstrip(".")
        for place, part in (
            [(f"{where}[{i}]", part) for i, part in enumerate(value)] if isinstance(value, list) else [(where, value)]
        ):
            if isinstance(part, Settings):
                part = part.model_dump()
            if isinstance(part, Mapping):
                found += _unwritable(part, place)
            elif isinstance(part, str) and not is_writable(part):
                found.append(Problem(place, "text with a NUL character or half of a surrogate pair is not allowed"))
    return found


def _rest(validate: Callable[[Any], S], values: Mapping[str, Any]) -> S | None:
    """The recipe without its faulty keys, if that is one: what is left can still be checked for conflicts."""
    try:
        return validate(values)
    except ValidationError:
        return None


def _with_default_kinds(model: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Groups that do not say their kind are of the default kind: ``tune: {r: 16}`` is LoRA."""
    filled = dict(values)
    for key, field in model.model_fields.items():
        chooser = selector(settings_classes(field))
        group = filled.get(key)
        if chooser and isinstance(field.default, Settings) and isinstance(group, Mapping) and chooser not in group:
            filled[key] = {chooser: name_of(type(field.default), chooser), **group}
    return filled


def _without(values: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """A copy without the keys that have problems; a group of an unknown kind goes as a whole."""
    left = copy.deepcopy(dict(values))
    for problem in problems:
        *parents, key = problem.where.split("[")[0].split(".")
        if parents and key in SELECTORS:
            *parents, key = parents
        group: Any = left
        for parent in parents:
            group = group.get(parent) if isinstance(group, dict) else None
        if isinstance(group, dict):
            group.pop(key, None)
    return left
