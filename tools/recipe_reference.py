"""A Markdown extension: the table of every key in `recipe.md`, from the schema, so that the two cannot differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

from fedfm.recipe.fields import ELEMENT
from fedfm.recipe.schema import Recipe

MARKER = "<!-- every key: written by tools/recipe_reference.py from the schema -->"

Schema = dict[str, Any]


def expanded(page: str) -> str:
    """A page with the table in place of its marker."""
    return page.replace(MARKER, "\n".join(reference(Recipe.model_json_schema()))) if MARKER in page else page


class _Reference(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return expanded("\n".join(lines)).split("\n")


class RecipeReference(Extension):
    """Puts the table where a page has the marker."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the name that Markdown calls
        """Before HTML comments, of which the marker is one, are taken out."""
        md.preprocessors.register(_Reference(md), "recipe_reference", priority=40)


def makeExtension(**_: object) -> RecipeReference:  # noqa: N802 - the name that Markdown calls
    """What Markdown asks an extension's module for."""
    return RecipeReference()


def reference(schema: Schema) -> Iterator[str]:
    """A section for each group of the recipe; a group that has kinds has a table for each."""
    groups = {key: list(_groups(value, schema)) for key, value in schema["properties"].items()}
    yield "### Top level\n"
    yield from _table(schema, schema, skip={key for key, found in groups.items() if found})
    for key, found in groups.items():
        if found:
            field = schema["properties"][key]
            yield from _section(f"{key}{_element(field)}", field, found, schema)


def _section(where: str, field: Schema, groups: list[Schema], schema: Schema) -> Iterator[str]:
    """A heading, the tables of a group, then the sections of groups inside it."""
    yield f"\n### `{where}`\n\n{field.get('description', '')}\n"
    nested: dict[str, tuple[Schema, list[Schema]]] = {}
    for group in groups:
        if len(groups) > 1:
            chooser, value = next(_constants(group))
            yield f"\n#### `{where}: {{{chooser}: {value}}}`\n"
        inner = {key: list(_groups(value, schema)) for key, value in group["properties"].items()}
        yield from _table(group, schema, skip={key for key, found in inner.items() if found})
        nested |= {key: (group["properties"][key], found) for key, found in inner.items() if found}
    for key, (inside, found) in nested.items():
        yield from _section(f"{where}.{key}{_element(inside)}", inside, found, schema)


def _table(group: Schema, schema: Schema, *, skip: set[str]) -> Iterator[str]:
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    required = group.get("required", [])
    for key, field in group["properties"].items():
        if key not in skip:
            default = "required" if key in required else f"`{json.dumps(field.get('default'))}`"
            text = field.get("description", "").replace("\n", " ").replace("|", "\\|")
            yield f"| `{key}` | {_type(field, schema)} | {default} | {text} |"


def _groups(field: Schema, schema: Schema) -> Iterator[Schema]:
    """The settings classes that a field may hold."""
    if "$ref" in field:
        target = schema["$defs"][field["$ref"].removeprefix("#/$defs/")]
        if "properties" in target:
            yield target
    items = [field["items"]] if isinstance(field.get("items"), dict) else []
    for part in (*field.get("anyOf", ()), *field.get("oneOf", ()), *items):
        yield from _groups(part, schema)


def _element(field: Schema) -> str:
    """What ends the name of a group that is an element of a list."""
    return ELEMENT if "items" in field else ""


def _constants(group: Schema) -> Iterator[tuple[str, str]]:
    return ((key, field["const"]) for key, field in group["properties"].items() if "const" in field)


def _type(field: Schema, schema: Schema) -> str:
    """What a field may be, in words."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(part, schema) for part in field["anyOf"]))
    if field.get("type") == "array":
        return f"list of {_type(field['items'], schema) or 'groups'}"
    words = {"string": "text", "null": "`null`", "boolean": "`true`, `false`", "integer": "whole number"}
    return words.get(field.get("type", ""), field.get("type", "")) + _range(field)


def _range(field: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ",".join(f" {sign} {field[key]:g}" for key, sign in signs.items() if key in field)
