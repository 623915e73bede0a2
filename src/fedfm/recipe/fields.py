"""The schema as a tree that can be walked: which group a key belongs to, which key chooses a group's kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from fedfm.registry import Choice, name_of
from fedfm.settings import Settings

SELECTORS = ("kind", "name", "rule")
"""Keys that choose what a group is: `tune.kind`, `algorithm.name`, `aggregate.rule`."""

ELEMENT = "[]"
"""Ends the dotted name of a group that is an element of a list: `updates[]`."""


def settings_classes(field: FieldInfo) -> tuple[type[Settings], ...]:
    """What a key may hold, or what the elements of its list may be.

    Returns:
        One class for a group, several for a choice of kinds, nothing for a plain value. Of a choice that other packages
        may add to, only fedfm's own.
    """
    return tuple(_classes(field.annotation, field.metadata))


def choice_of(field: FieldInfo) -> Choice | None:
    """The choice that a key, or each element of its list, is; None for a group that other packages cannot add to."""
    return next(_choices(field.annotation, field.metadata), None)


def _classes(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[type[Settings]]:
    choice = _choice(metadata)
    if choice is not None:
        yield from choice.known.values()
    elif parts := _parts(annotation):
        for part, about in parts:
            yield from _classes(part, about)
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation


def _choices(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[Choice]:
    choice = _choice(metadata)
    if choice is not None:
        yield choice
    for part, about in _parts(annotation):
        yield from _choices(part, about)


def _choice(metadata: Sequence[Any]) -> Choice | None:
    return next((item for item in metadata if isinstance(item, Choice)), None)


def _parts(annotation: Any) -> list[tuple[Any, Sequence[Any]]]:
    """The members of a union, the element of a list, or the type that is annotated, each with its metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return [(inner, metadata)]
    return [(part, ()) for part in get_args(annotation)] if origin in (Union, UnionType, list) else []


def is_list(field: FieldInfo) -> bool:
    """Whether a key holds a list of groups."""
    return bool(settings_classes(field) or choice_of(field)) and _has_list(field.annotation)


def _has_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(_has_list(part) for part, _ in _parts(annotation))


def group_classes(classes: Sequence[type[Settings]], key: str) -> tuple[type[Settings], ...]:
    """What ``key`` may hold inside a group of one of ``classes``."""
    return tuple(
        found for group in classes if key in group.model_fields for found in settings_classes(group.model_fields[key])
    )


def group_choice(classes: Sequence[type[Settings]], key: str) -> Choice | None:
    """The choice that ``key`` is inside a group of one of ``classes``."""
    fields = (group.model_fields[key] for group in classes if key in group.model_fields)
    return next(filter(None, map(choice_of, fields)), None)


@cache
def selector(classes: tuple[type[Settings], ...]) -> str | None:
    """The key that chooses among ``classes``: in each of them it allows one value."""
    for key in SELECTORS:
        if classes and all(name_of(group, key) is not None for group in classes):
            return key
    return None


def kinds(field: FieldInfo) -> tuple[str, ...]:
    """The names that a key's group may have, those of other packages included; nothing where there is no choice."""
    choice = choice_of(field)
    if choice is not None:
        return choice.names
    classes = settings_classes(field)
    chooser = selector(classes)
    return tuple(str(name_of(group, chooser)) for group in classes) if chooser else ()


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

    @property
    def where(self) -> str:
        """The dotted key."""
        return f"{self.group}.{self.name}".lstrip(".")


def all_keys(model: type[Settings], group: str = "", kind: str | None = None) -> Iterator[Key]:
    """Every key of the schema, in its order."""
    for name, field in model.model_fields.items():
        key = Key(group, name, kind)
        yield key
        classes = settings_classes(field)
        chooser = selector(classes) if len(classes) > 1 else None
        for inner in classes:
            where = key.where + (ELEMENT if is_list(field) else "")
            yield from all_keys(inner, where, name_of(inner, chooser) if chooser else None)
