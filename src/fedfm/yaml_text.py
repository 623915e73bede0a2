"""Reads and writes YAML as plain data, by the rules of YAML 1.2.

YAML 1.1, which PyYAML implements, reads ``1e-5`` as text, ``no`` as false, ``0123`` as 83 and ``12:30:00`` as 45000.
Here a plain scalar is a number, true, false or null if it looks like one, and text otherwise. Refused are: duplicate
keys, keys that are not text, tags of anything but plain data, anchors and aliases (recipes do not need them, and a few
lines of them can expand to gigabytes), numbers of more than a thousand digits, deep nesting, and text that cannot be
stored in a file (NUL, halves of surrogate pairs).
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
"""Tag, pattern, first characters. A number with leading zeros, like 007, is text."""

PLAIN = {
    yaml.ScalarNode: frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")),
    yaml.SequenceNode: frozenset({"tag:yaml.org,2002:seq"}),
    yaml.MappingNode: frozenset({"tag:yaml.org,2002:map"}),
}
"""Tags that each type of node may have; `!!timestamp`, `!!binary`, `!!set` and similar tags are not plain data."""

DEPTH = 32
"""Maximum nesting of groups."""

DIGITS = 1000
"""Maximum number of characters of a number; no setting needs more."""


class YamlError(ValueError):
    """The text is not YAML of the form that a recipe may have.

    Attributes:
        line: 1-based line; None if it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def is_writable(text: str) -> bool:
    """Whether a text can be stored in a file or be its name: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class Loader(yaml.SafeLoader):
    """Reads plain data by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses anchors, aliases and deep nesting."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise YamlError("anchors and aliases (& and *) are not allowed", line)
        if self.depth > DEPTH:
            raise YamlError(f"nested too deeply: more than {DEPTH} levels", line)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuses everything that is not plain data."""
        if node.tag not in PLAIN[type(node)]:
            kind = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise YamlError(f"`{kind[:60]}` is not allowed here: write text, numbers, true, false or null", _line(node))
        return super().construct_object(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Text that can be stored in a file."""
        text = str(self.construct_scalar(node))
        if not is_writable(text):
            raise YamlError("text with a NUL character or half of a surrogate pair is not allowed", _line(node))
        return text

    def construct_null(self, node: yaml.ScalarNode) -> None:
        """Null, in any of its spellings."""
        if not NULL.match(str(self.construct_scalar(node))):
            raise YamlError(f"`{node.value[:60]}` is not null", _line(node))

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        """True or false."""
        text = str(self.construct_scalar(node))
        if not BOOL.match(text):
            raise YamlError(f"`{text[:60]}` is neither true nor false", _line(node))
        return text.lower() == "true"

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuses keys that are not text, and duplicate keys."""
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
        """A whole number, or a number with a decimal point or an exponent."""
        text = str(self.construct_scalar(node))
        if len(text) > DIGITS:
            raise YamlError(f"a number of {len(text)} characters; at most {DIGITS} are read", _line(node))
        if INT.match(text):
            return int(text, 0)
        if not FLOAT.match(text):
            raise YamlError(f"`{text[:60]}` is not a number", _line(node))
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


class Dumper(yaml.SafeDumper):
    """Writes YAML that readers of 1.1 and 1.2 read alike: text is quoted if either would read it as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes a repeated value in full each time, without aliases."""
        return True


for _tag, _pattern, _first in RESOLVERS:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, [*_first, *([""] if _tag == "null" else [])])
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_number)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_number)
Loader.add_constructor("tag:yaml.org,2002:str", Loader.construct_text)
Loader.add_constructor("tag:yaml.org,2002:bool", Loader.construct_bool)
Loader.add_constructor("tag:yaml.org,2002:null", Loader.construct_null)
Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def _represent_text(dumper: Dumper, text: str) -> yaml.ScalarNode:
    """Text; characters that are line breaks only in YAML 1.1 are written as escapes."""
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _represent_text)


def parse(text: str) -> Any:
    """Plain data from YAML.

    Raises:
        YamlError: the text is not valid; with the line, if it is known.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(_in_words(error), mark.line + 1 if mark else None) from error
    except yaml.YAMLError as error:
        raise YamlError(str(error).splitlines()[0]) from error
    except (ValueError, OverflowError) as error:  # of chr(), for "\\U00110000"
        if isinstance(error, YamlError):
            raise
        raise YamlError("an escape in quotes does not stand for a character") from error
    except RecursionError as error:
        raise YamlError("nested too deeply") from error


def _in_words(error: yaml.MarkedYAMLError) -> str:
    """Describes a syntax error."""
    if error.problem and "\\t" in error.problem:
        return "a tab is used where only spaces are allowed: indent with spaces"
    return error.problem or error.context or "not YAML"


def render(data: Any, *, flow: bool = False) -> str:
    """YAML that `parse` reads back as equal data: groups as blocks, lists inline; with ``flow``, all on one line."""
    text: str = yaml.dump(
        data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=2**16 if flow else 110
    )
    return text.removesuffix("...\n").rstrip("\n") if flow else text
