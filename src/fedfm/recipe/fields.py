"""The schema as a tree that can be walked: which group a key belongs to, which key chooses a group's kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fedfm.settings import Settings

SELECTORS = ("kind", "name", "rule")
"""Keys that choose what a group is: `tune.kind`, `algorithm.name`, `aggregate.rule`."""


def settings_classes(annotation: Any) -> tuple[type[Settings], ...]:
    """What a key may hold: one class for a group, several for a choice of kinds, none for a plain value."""
    if isinstance(annotation, type):
        return (annotation,) if issubclass(annotation, Settings) else ()
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return tuple(found for part in get_args(annotation) for found in settings_classes(part))
    return ()


def group_classes(classes: Sequence[type[Settings]], key: str) -> tuple[type[Settings], ...]:
    """What ``key`` may hold inside a group of one of ``classes``."""
    return tuple(
        found
        for group in classes
        if key in group.model_fields
        for found in settings_classes(group.model_fields[key].annotation)
    )


def selector(classes: Sequence[type[Settings]]) -> str | None:
    """The key that chooses among ``classes``: in each of them it allows one value."""
    for key in SELECTORS:
        if classes and all(kind_of(group, key) is not None for group in classes):
            return key
    return None


def kind_of(group: type[Settings], key: str) -> str | None:
    """The one value that ``key`` allows in this class, None where it allows others or is no key of it."""
    field = group.model_fields.get(key)
    choices = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    return choices[0] if len(choices) == 1 else None


@dataclass(frozen=True)
class Key:
    """A key of the schema.

    Attributes:
        group: dotted group that it is in, empty at the top.
        name: its name there.
        kind: the kind of the group that has it, None where the group has no kinds.
    """

    group: str
    name: str
    kind: str | None


def all_keys(model: type[Settings], group: str = "", kind: str | None = None) -> Iterator[Key]:
    """Every key of the schema, in its order."""
    for name, field in model.model_fields.items():
        yield Key(group, name, kind)
        classes = settings_classes(field.annotation)
        chooser = selector(classes) if len(classes) > 1 else None
        for inner in classes:
            yield from all_keys(inner, f"{group}.{name}".lstrip("."), kind_of(inner, chooser) if chooser else None)
