"""Makes text from untrusted sources (names, reasons, paths, class names) safe to display.

With control characters or overrides of the writing direction, a text can forge log lines or rewrite a terminal. A very
long text can fill a page. Such characters are escaped, and long texts are cut, where a text enters the program; if its
exact value matters, where it is displayed.
"""

from __future__ import annotations

import json
import re
from typing import Any

LINE, LINES = 500, 8_000
"""Maximum number of characters of a text that is displayed on one line, and on several lines."""

_INVISIBLE = (
    "\x7f-\x9f\u2028\u2029\ud800-\udfff"  # DEL and C1 controls, line separators, lone surrogates
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the writing direction
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible characters
)
"""Without the joiners U+200C and U+200D, which are part of words in several languages."""

_IN_JSON = re.compile(f"[{_INVISIBLE}]")
_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_INVISIBLE}]")
_IN_LINE = re.compile(f"[\x00-\x1f{_INVISIBLE}]")


def line(value: object, *, most: int = LINE) -> str:
    """One line of at most ``most`` characters; unsafe characters are escaped as in a Python string."""
    return _shown(str(value), _IN_LINE, most)


def lines(value: object, *, most: int = LINES) -> str:
    """As `line`, but keeps newlines and tabs; a long text is cut in the middle, since its end is often the reason."""
    text = str(value)
    if len(text) > most:
        text = f"{text[: most // 4]}\n{_cut(text)}\n{text[-most // 2 :]}"
    return _shown(text, _IN_LINES, most)


def escaped(text: str) -> str:
    """As `lines`, but not cut."""
    return _escaped(text, _IN_LINES)


def records(value: Any) -> Any:
    """A JSON value in which every text and every key is replaced by its `line`."""
    if isinstance(value, str):
        return line(value)
    if isinstance(value, dict):
        return {records(key): records(item) for key, item in value.items()}
    return [records(item) for item in value] if isinstance(value, list) else value


def quoted(value: object, *, most: int = 80) -> str:
    """An untrusted name or value in backquotes, for use in a sentence."""
    return f"`{line(value, most=most)}`"


def in_json(text: str) -> str:
    """The same JSON value, with invisible characters in its strings written as escapes."""
    return _IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _shown(text: str, unsafe: re.Pattern[str], most: int) -> str:
    shown = _escaped(text[: most + 1], unsafe)
    if len(text) <= most and len(shown) <= most:
        return shown
    cut = _cut(text)
    return shown[: most - len(cut)] + cut


def _escaped(text: str, unsafe: re.Pattern[str]) -> str:
    return unsafe.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _cut(text: str) -> str:
    return f"… ({len(text):,} characters)"


def error_line(error: BaseException) -> str:
    """An error's type and the first line of its text."""
    return line(f"{type(error).__name__}: {error}".splitlines()[0])
