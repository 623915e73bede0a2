"""Untrusted texts in Markdown: their markup, HTML and code are escaped."""

from __future__ import annotations

import json
import re

from fedfm.printable import in_json, line

_MARKUP = re.compile(r"[\\`*\[\]<>|~&#$]|(?<!\w)_|_(?!\w)")


def prose(value: object) -> str:
    """A text in a sentence, a heading or a cell of a table."""
    return _MARKUP.sub(r"\\\g<0>", line(value))


def code(value: object) -> str:
    """A text as a span of code."""
    text = line(value)
    ticks = "`" * (_longest_run(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def fence(text: str) -> str:
    """The fence of a block of code that contains this text."""
    return "`" * max(3, _longest_run(text) + 1)


def literal(value: str | list[str]) -> str:
    """A text, or a list of texts, as a literal of Python: on one line, and without what ends a block of code."""
    return in_json(json.dumps(value, ensure_ascii=False)).replace("`", "\\u0060")


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
