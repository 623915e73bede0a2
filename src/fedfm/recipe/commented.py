"""A resolved recipe that explains itself: every key below what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from fedfm.recipe.fields import kind_of, selector, settings_classes
from fedfm.recipe.schema import Recipe
from fedfm.recipe.yaml_text import render
from fedfm.settings import Settings


def commented(recipe: Recipe) -> str:
    """Every key with its value and its help as a comment; as YAML that loads back to an equal recipe."""
    blocks = ["\n".join(_block(recipe, key, "")) for key in type(recipe).model_fields]
    return "\n\n".join(blocks) + "\n"


def _block(group: Settings, key: str, indent: str) -> Iterator[str]:
    """The lines of one key: help, choices, value."""
    field, value = type(group).model_fields[key], getattr(group, key)
    yield f"{indent}# {field.description}"
    choices = _choices(field.annotation)
    if len(choices) > 1:
        yield f"{indent}# {' | '.join(choices)}"
    if isinstance(value, Settings):
        yield f"{indent}{key}:"
        for inner in type(value).model_fields:
            yield from _block(value, inner, indent + "  ")
    else:
        yield f"{indent}{render({key: value}, flow=True)[1:-1]}"


def _choices(annotation: Any) -> list[str]:
    """The words that are allowed, or the kinds of a group; nothing where any value is."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    classes = settings_classes(annotation)
    chooser = selector(classes)
    return [f"{chooser}: {kind_of(group, chooser)}" for group in classes] if chooser else []
