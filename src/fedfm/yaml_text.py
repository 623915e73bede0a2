"""YAML as people expect it: plain data, read as version 1.2 of the language reads it.

YAML 1.1, which PyYAML follows, takes ``1e-5`` for text, ``no`` for false, ``0123`` for 83 and ``12:30:00`` for 45000.
Here a word is a number, true, false or null when it looks like one, and text otherwise. Refused: keys given twice, keys
that are not text, tags of other languages' objects, anchors and aliases (a recipe has no need of them, and a few lines
of them can stand for gigabytes).
"""

from __future__ import annotations

import re
from typing import Any

import yaml

NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
INT = re.compile(r"^(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)$")
FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
RESOLVERS = (
    ("null", NULL, "~nN"),
    ("bool", BOOL, "tTfF"),
    ("int", INT, "-+0123456789"),
    ("float", FLOAT, "-+.0123456789"),
)
"""Tag, what looks like it, first characters. A number with leading zeros, like 007, is a name: text."""


class YamlError(ValueError):
    """The text is not YAML that a recipe may be written in.

    Attributes:
        line: 1-based line, None where it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Loader(yaml.SafeLoader):
    """Reads plain data by the rules of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses anchors and aliases."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise YamlError("anchors and aliases (& and *) are not allowed", event.start_mark.line + 1)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses keys that are not text or come twice."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                raise YamlError("a key must be text; put it in quotes if it is", line)
            if key.value in seen:
                raise YamlError(f"`{key.value}` is given twice, first in line {seen[key.value]}", line)
            seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A whole number, or one with a point or an exponent."""
        text = str(self.construct_scalar(node))
        if INT.match(text):
            return int(text, 0)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


class Dumper(yaml.SafeDumper):
    """Writes what readers of YAML 1.1 and of 1.2 read alike: quotes whatever either would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes a value that occurs twice twice."""
        return True


for _tag, _pattern, _first in RESOLVERS:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, [*_first, *([""] if _tag == "null" else [])])
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_number)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_number)
Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def parse(text: str) -> Any:
    """Plain data from YAML.

    Raises:
        YamlError: with the line, where it is known.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(error.problem or error.context or "not YAML", mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:
        raise YamlError(str(error).splitlines()[0]) from error
    except RecursionError as error:
        raise YamlError("nested too deeply") from error


def render(data: Any, *, flow: bool = False) -> str:
    """YAML that `parse` reads back to equal data: groups as blocks, lists inline; ``flow``: all in one line."""
    text: str = yaml.dump(
        data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=2**16 if flow else 110
    )
    return text.removesuffix("...\n").rstrip("\n") if flow else text
