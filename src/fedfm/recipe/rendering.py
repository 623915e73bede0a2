"""Writes a resolved recipe as YAML: plain for a run's folder, or with the help text of every key for users."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fedfm.recipe.fields import choice_of, kinds, selector, settings_classes
from fedfm.settings import Settings
from fedfm.yaml_text import render

WIDTH = 110
"""Maximum number of characters of a line of help, without its indentation."""


def dump(recipe: Settings) -> str:
    """Every key with its value, as YAML that loads as an equal recipe."""
    return render(recipe.model_dump(mode="json"))


def commented(recipe: Settings) -> str:
    """As `dump`, with the help text of each key as a comment above it."""
    blocks = ["\n".join(_block(recipe, key, "")) for key in type(recipe).model_fields]
    return "\n\n".join(blocks) + "\n"


def _block(group: Settings, key: str, indent: str) -> Iterator[str]:
    """The lines of one key: help, choices, value."""
    field, value = type(group).model_fields[key], getattr(group, key)
    for line in [*textwrap.wrap(field.description or "", WIDTH), *_choices(field)]:
        yield f"{indent}# {line}"
    if isinstance(value, Settings):
        yield f"{indent}{key}:"
        for inner in type(value).model_fields:
            yield from _block(value, inner, indent + "  ")
    else:
        written = group.model_dump(mode="json", include={key})  # a list may hold groups, such as stages
        yield f"{indent}{render(written, flow=True)[1:-1]}"


def _choices(field: FieldInfo) -> Iterator[str]:
    """Lines with the allowed values or the kinds of a group, if there are several."""
    if get_origin(field.annotation) is Literal:
        names, chooser = tuple(map(str, get_args(field.annotation))), None
    else:
        choice = choice_of(field)
        names, chooser = kinds(field), choice.key if choice else selector(settings_classes(field))
    if len(names) > 1:
        yield from textwrap.wrap((f"{chooser}: " if chooser else "") + " | ".join(names), WIDTH, break_on_hyphens=False)
