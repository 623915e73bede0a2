"""Methods by name: those of fedfm, those of other installed packages, and those that were given to the Python API.

A room keeps a plain dictionary from name to class. A key of the recipe that chooses among them is annotated with the
base class and a `Choice`:

    AnyAlgorithm = Annotated[Algorithm, Choice(ALGORITHMS, "name", "fedfm.algorithms")]

An installed package adds a method under an entry point of that group. It is imported only when a recipe names it. An
object that is passed to `fedfm.run` makes its class known to this process. A recipe never causes an import in any other
way: the path of a class that a run's recipe records is compared, and never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args, get_origin

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticKnownError, core_schema

from fedfm.settings import Settings

CLASS = "class"
"""Key of a dumped group: the import path of a class that is not fedfm's own. It is only compared."""

ENTRY_POINTS = "x-entry-points"
"""Key of the JSON Schema of a choice: the group of entry points that may add to it."""

_GIVEN: dict[str, dict[str, type[Settings]]] = {}
"""Group of entry points → name → class of an object that was passed to the Python API of this process."""


@cache
def name_of(settings: type[Settings], key: str) -> str | None:
    """The one value that ``key`` allows in a class, None where it allows others or is not a key of the class."""
    field = settings.model_fields.get(key)
    names = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    return names[0] if len(names) == 1 else None


def path_of(settings: type[Settings]) -> str:
    """The import path of a class, such as ``package.module:Class``."""
    return f"{settings.__module__}:{settings.__qualname__}"


@dataclass(frozen=True, eq=False)
class Choice:
    """The kinds that a group of the recipe may be of; metadata of an annotation for pydantic.

    Attributes:
        known: name → class, those of fedfm.
        key: the key of the group that names the kind: ``kind``, ``name`` or ``rule``.
        group: the group of entry points under which installed packages add to them.
    """

    known: Mapping[str, type[Settings]]
    key: str
    group: str

    @property
    def names(self) -> tuple[str, ...]:
        """All names: fedfm's own, those of installed packages, those given to this process."""
        return tuple(dict.fromkeys([*self.known, *_installed(self.group), *_GIVEN.get(self.group, ())]))

    def find(self, name: str) -> type[Settings] | None:
        """The class of a name; a class of another package is imported.

        Raises:
            ValueError: a package has it, but its class cannot be imported or is not one of this kind.
        """
        return self.known.get(name) or _GIVEN.get(self.group, {}).get(name) or self._load(name)

    def admit(self, settings: Settings) -> None:
        """Makes the class of an object known to this process, unless it is one that is known everywhere.

        Raises:
            ValueError: the class has no name of its own, or its name is that of another class.
        """
        given = type(settings)
        if given in self.known.values():
            return
        name = name_of(given, self.key)
        if name is None:
            raise ValueError(
                f'{path_of(given)} needs a name of its own: a field `{self.key}: Literal["NAME"] = "NAME"`'
            )
        if name in self.known:
            raise ValueError(f"the name `{name}` of {path_of(given)} is that of a method of fedfm; choose another name")
        if name not in _installed(self.group):
            _GIVEN.setdefault(self.group, {})[name] = given
        elif (installed := self._load(name)) is not given:
            package = _package(_installed(self.group)[name][0])
            raise ValueError(
                f"the name `{name}` of {path_of(given)} is that of {path_of(installed or given)}, which the package "
                f"{package} installs; choose another name"
            )

    def is_here_only(self, settings: Settings) -> bool:
        """Whether the class of an object is known to this process alone."""
        return _GIVEN.get(self.group, {}).get(str(getattr(settings, self.key, None))) is type(settings)

    def _load(self, name: str) -> type[Settings] | None:
        found = _installed(self.group).get(name)
        if found is None:
            return None
        if len(found) > 1:
            packages = ", ".join(map(_package, found))
            raise ValueError(f"`{name}` is installed by several packages ({packages}); uninstall all but one")
        (point,) = found
        where = f"`{name}` of the package {_package(point)} ({point.value})"
        try:
            loaded = point.load()
        except Exception as error:  # whatever the module of another package raises
            raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Settings)):
            raise ValueError(f"{where} is not a class derived from fedfm's base class of this kind")
        if name_of(loaded, self.key) != name:
            raise ValueError(f'{where} needs a field `{self.key}: Literal["{name}"] = "{name}"`')
        return loaded

    def _chosen(self, base: type[Settings], value: Any) -> Settings:
        """The settings that a value of the recipe stands for."""
        if isinstance(value, base):
            self.admit(value)
            return value
        if not isinstance(value, Mapping):
            raise PydanticKnownError("model_type", {"class_name": base.__name__})
        name = value.get(self.key)
        if name is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": self.key})
        chosen = self.find(name) if isinstance(name, str) else None
        if chosen is None:
            if CLASS in value:
                raise ValueError(
                    f"`{name}` is a class from outside of fedfm ({value[CLASS]}) that is not known here: pass an "
                    f"object of it to fedfm.resume, or install its package with an entry point in `{self.group}`"
                )
            expected = ", ".join(f"'{known}'" for known in self.names)
            context = {"discriminator": self.key, "tag": str(name), "expected_tags": expected}
            raise PydanticKnownError("union_tag_invalid", context)
        if not issubclass(chosen, base):
            raise ValueError(f"{path_of(chosen)} is not derived from {path_of(base)}")
        if name in self.known or CLASS not in value:
            return chosen.model_validate(value)
        if value[CLASS] != path_of(chosen):
            raise ValueError(f"`{name}` is {path_of(chosen)} here, not {value[CLASS]}, which this recipe was made with")
        return chosen.model_validate({key: setting for key, setting in value.items() if key != CLASS})

    def _dumped(self, settings: Settings, dump: Callable[[Settings], Any]) -> Any:
        """What is written of the settings: their keys, and the path of a class that is not fedfm's own."""
        written = dump(settings)
        if type(settings) in self.known.values() or not isinstance(written, dict) or self.key not in written:
            return written
        return {self.key: written[self.key], CLASS: path_of(type(settings)), **written}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validation by the class that the value names; objects of any class derived from the base are taken."""

        def chosen(value: Any) -> Settings:
            return self._chosen(source, value)

        written = core_schema.wrap_serializer_function_ser_schema(self._dumped, schema=core_schema.any_schema())
        return core_schema.no_info_plain_validator_function(chosen, serialization=written)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One of fedfm's own classes, told apart by the key."""
        if not self.known:
            return {"discriminator": {"propertyName": self.key}, ENTRY_POINTS: self.group}
        choices = {name: settings.__pydantic_core_schema__ for name, settings in self.known.items()}
        union = handler(core_schema.tagged_union_schema(choices, discriminator=self.key))
        return {**union, ENTRY_POINTS: self.group}


def _installed(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Name → the entry points of that name in installed packages; nothing is imported."""
    return _scanned(tuple(sys.path)).get(group, {})


@cache
def _scanned(path: tuple[str, ...]) -> Mapping[str, Mapping[str, tuple[EntryPoint, ...]]]:
    """Group → `_installed`; ``path`` is that of the interpreter, which decides what is found."""
    found = entry_points()
    groups = sorted(group for group in found.groups if group.startswith("fedfm."))
    return {
        group: {name: tuple(found.select(group=group, name=name)) for name in found.select(group=group).names}
        for group in groups
    }


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
