"""Problems of single keys: pydantic's errors, turned into messages that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedfm.errors import Problem
from fedfm.recipe.fields import group_choice, group_classes, selector
from fedfm.recipe.suggestions import unknown_key
from fedfm.registry import Choice, name_of
from fedfm.settings import Settings
from fedfm.spelling import nearest

MESSAGES = {
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be ≥ {ge}",
    "int_type": "must be a whole number",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be ≤ {le}",
    "list_type": "must be a list, such as [a, b]",
    "model_type": "must be a group of keys",
    "none_required": "must be null",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "value_error": "{error}",
}
"""pydantic's error type → message; values in braces come from the error's context."""

GOT_LIMIT = 60
"""Maximum number of characters shown of an invalid value."""


@dataclass(frozen=True)
class Location:
    """The location of an error in a recipe.

    Attributes:
        group: dotted group; empty at the top level.
        key: the key in the group.
        siblings: classes of the group; only one if its kind is known.
        classes: classes that the key's value may have; empty for a plain value.
        choice: the choice that the key is, where other packages may add to it.
    """

    group: str
    key: str
    siblings: tuple[type[Settings], ...]
    classes: tuple[type[Settings], ...]
    choice: Choice | None = None

    @property
    def where(self) -> str:
        """The dotted key."""
        return f"{self.group}.{self.key}".lstrip(".")

    @property
    def help(self) -> str:
        """The help text of the key."""
        fields = (group.model_fields.get(self.key) for group in self.siblings)
        return next((field.description for field in fields if field and field.description), "")


def explain(error: ValidationError, model: type[Settings], values: Mapping[str, Any]) -> list[Problem]:
    """One problem for each invalid key of ``values``, in the order of the schema."""
    messages: dict[str, list[str]] = {}
    got: dict[str, str | None] = {}
    for details in error.errors(include_url=False):
        where, message, value = _in_words(details, _place(details["loc"], model, values), model)
        if message not in messages.setdefault(where, []):  # a union reports an error for each member
            messages[where].append(message)
        got[where] = value
    return [Problem(where, ", or ".join(found), got[where]) for where, found in messages.items()]


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same or one lies inside the other."""
    return one == other or one.startswith((f"{other}.", f"{other}[")) or other.startswith((f"{one}.", f"{one}["))


def _place(location: tuple[int | str, ...], model: type[Settings], values: Any) -> Location:
    """Resolves pydantic's location, which contains names of kinds and types beside the keys."""
    place = Location("", "", (), (model,))
    for part in location:
        if isinstance(part, int):
            is_element = isinstance(values, list) and part < len(values)
            values = values[part] if is_element else None
            classes = _of_kind(place.classes, place.choice, values)
            place = Location(place.group, f"{place.key}[{part}]", place.siblings, classes, place.choice)
            continue
        known = any(part in group.model_fields for group in place.classes)
        if known or (place.classes and isinstance(values, Mapping) and part in values):
            values = values.get(part) if isinstance(values, Mapping) else None
            choice = group_choice(place.classes, part)
            classes = _of_kind(group_classes(place.classes, part), choice, values)
            place = Location(place.where, part, place.classes, classes, choice)
    return place


def _of_kind(classes: tuple[type[Settings], ...], choice: Choice | None, values: Any) -> tuple[type[Settings], ...]:
    """The class that a group's values choose; all where they choose none that is known."""
    chooser = selector(classes)
    if chooser is None or not isinstance(values, Mapping):
        return classes
    if choice is not None and isinstance(name := values.get(chooser), str):
        with suppress(ValueError):  # what is wrong with the class is a problem of its own
            return (found,) if (found := choice.find(name)) else classes
    return tuple(group for group in classes if name_of(group, chooser) == values.get(chooser)) or classes


def _in_words(details: ErrorDetails, place: Location, model: type[Settings]) -> tuple[str, str, str | None]:
    """The dotted key, the message, and the value as written."""
    fault, context, value = details["type"], details.get("ctx", {}), details["input"]
    got = _shown(value)
    if fault == "missing":
        return place.where, f"is required: {place.help}", None
    if fault == "extra_forbidden":
        return place.where, unknown_key(place.key, place.group, place.siblings, model), got
    if place.classes and not isinstance(value, Mapping) and fault != "value_error":
        return place.where, _as_group(place), got
    if fault == "union_tag_not_found":
        return f"{place.where}.{_chooser(context)}", f"is required: {_kinds(place)}", None
    if fault == "union_tag_invalid":
        tag = str(context["tag"])
        choices = re.findall(r"'([^']*)'", context["expected_tags"])
        return f"{place.where}.{_chooser(context)}", _choose(tag, choices), _shown(tag)
    if fault == "literal_error":
        quoted_or_number = re.findall(r"'([^']*)'|(\d+)", context["expected"])
        return place.where, _choose(value, [word or number for word, number in quoted_or_number]), got
    if fault == "string_pattern_mismatch":
        return place.where, f"is not allowed here: {place.help}", got
    if fault == "string_type" and isinstance(value, int | float):
        return place.where, "must be text: put it in quotes", got
    numbers = {name: f"{number:g}" for name, number in context.items() if isinstance(number, float)}
    message = MESSAGES[fault].format(**{**context, **numbers}) if fault in MESSAGES else details["msg"]
    return place.where, message, got


def _kinds(place: Location) -> str:
    """The kinds that a group may have."""
    chooser = selector(place.classes) or ""
    return ", ".join(str(name_of(group, chooser)) for group in place.classes)


def _chooser(context: Mapping[str, Any]) -> str:
    """The key that chooses among the kinds of a group."""
    return str(context["discriminator"]).strip("'")


def _choose(value: Any, choices: list[str]) -> str:
    """Lists the allowed values, and suggests the one that was probably meant."""
    close = nearest(value, choices) if isinstance(value, str) else None
    hint = f" — did you mean `{close}`?" if close else ""
    return ("must be " if len(choices) == 1 else "must be one of ") + ", ".join(choices) + hint


def _as_group(place: Location) -> str:
    """Shows how to write a group, for a key that has a plain value."""
    first = place.classes[0]
    chooser = selector(place.classes)
    key, value = (chooser, name_of(first, chooser)) if chooser else (next(iter(first.model_fields)), "…")
    return f"must be a group of keys, such as `{place.key}: {{{key}: {value}}}`"


def _shown(value: Any) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= GOT_LIMIT else f"{text[:GOT_LIMIT]}…"
