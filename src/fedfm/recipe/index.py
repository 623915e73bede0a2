"""The recipe's keys without the classes behind them, to check a recipe before torch is imported.

``schema.json`` is generated from the classes (``make schema``; a test compares the two). It is a JSON Schema, so
editors can use it to complete and check a recipe. This module turns it back into settings classes with the same keys,
types, limits, defaults and help texts, but without methods. Conversions and checks of the original classes are not
repeated: the index accepts everything that they accept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from fedfm.recipe.checks import keys_checked
from fedfm.registry import ENTRY_POINTS, Choice, name_of
from fedfm.settings import Settings

FILE = Path(__file__).with_name("schema.json")

Node = Mapping[str, Any]

SIMPLE = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None, "object": dict, "array": list}
LIMITS = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "pattern": "pattern",
    "minItems": "min_length",
    "maxItems": "max_length",
    "minLength": "min_length",
    "maxLength": "max_length",
}
"""JSON Schema's names of limits → pydantic's names."""


def checked_keys(values: Mapping[str, Any]) -> Settings:
    """A recipe with all default values, of which only single keys have been checked.

    Raises:
        RecipeError: keys are unknown or have invalid values; lists all of them.
    """
    model = recipe_keys()
    return keys_checked(model, values, model.model_validate)


@cache
def recipe_keys() -> type[Settings]:
    """The class of a whole recipe, made from ``schema.json``."""
    schema = json.loads(FILE.read_text(encoding="utf-8"))
    return _Classes(schema["$defs"]).of("Recipe", schema)


def schema_text() -> str:
    """The text that ``schema.json`` must have."""
    from fedfm.recipe.schema import Recipe

    schema = Recipe.model_json_schema(schema_generator=_Loose)
    return json.dumps(_untitled(schema), indent=1, ensure_ascii=False) + "\n"


class _Loose(GenerateJsonSchema):
    """Allows any value where one of our validators converts it first, or where JSON has no such type."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Any value, unless the validator declares its input type (``json_schema_input_type``)."""
        return super().function_before_schema(schema) if "json_schema_input_schema" in schema else {}

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        """Any value."""
        return {}


def _untitled(node: Any) -> Any:
    """The schema without titles, which repeat the names of keys."""
    if isinstance(node, dict):
        return {key: _untitled(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    return [_untitled(value) for value in node] if isinstance(node, list) else node


class _Classes:
    """Creates settings classes from the definitions of a JSON Schema, each class once."""

    def __init__(self, definitions: Mapping[str, Node]) -> None:
        self.definitions = definitions
        self.made: dict[str, type[Settings]] = {}

    def of(self, name: str, node: Node) -> type[Settings]:
        """The class of an object."""
        if name not in self.made:
            required = node.get("required", ())
            fields: dict[str, Any] = {}
            for key, value in node["properties"].items():
                default = ... if key in required else self._default(value)
                fields[key] = (self._type(value), Field(default, description=value.get("description")))
            self.made[name] = create_model(name, __base__=Settings, __doc__=node.get("description", ""), **fields)
        return self.made[name]

    def _type(self, node: Node) -> Any:
        """The type annotation for a part of the schema."""
        if "$ref" in node:
            return self._referred(node["$ref"])
        if ENTRY_POINTS in node:
            return Annotated[Settings, self._choice(node)]
        if "oneOf" in node:
            kinds: Any = Union[tuple(self._type(kind) for kind in node["oneOf"])]  # noqa: UP007 - a computed union
            return Annotated[kinds, Field(discriminator=node["discriminator"]["propertyName"])]
        if "anyOf" in node:
            return Union[tuple(self._type(choice) for choice in node["anyOf"])]  # noqa: UP007
        if "const" in node or "enum" in node:
            return Literal[tuple(node.get("enum", [node.get("const")]))]
        if "type" not in node:
            return Any
        plain: Any = SIMPLE[node["type"]]
        if plain is list:
            plain = list.__class_getitem__(self._type(node.get("items", {})))
        limits = {ours: node[theirs] for theirs, ours in LIMITS.items() if theirs in node}
        return Annotated[plain, Field(**limits)] if limits else plain

    def _choice(self, node: Node) -> Choice:
        """A choice that other packages may add to; a class of theirs is imported when a recipe names it."""
        key = node["discriminator"]["propertyName"]
        classes = [self._type(kind) for kind in node.get("oneOf", ())]
        return Choice({str(name_of(settings, key)): settings for settings in classes}, key, node[ENTRY_POINTS])

    def _referred(self, reference: str) -> type[Settings]:
        name = reference.removeprefix("#/$defs/")
        return self.of(name, self.definitions[name])

    def _default(self, node: Node) -> Any:
        """The default of a key; for a group, an object of its class."""
        value = node.get("default")
        if not isinstance(value, dict):
            return value
        node = next((choice for choice in node.get("anyOf", ()) if "$ref" in choice or "oneOf" in choice), node)
        if "$ref" not in node and "oneOf" not in node:
            return value
        if "oneOf" in node:
            chooser = node["discriminator"]
            node = {"$ref": chooser["mapping"][value[chooser["propertyName"]]]}
        return self._referred(node["$ref"]).model_validate(value)


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
