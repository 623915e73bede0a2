"""Text from elsewhere (names, reasons, paths, class names), made safe to show.

A control character or an override of the writing direction lets a text forge a log or rewrite a terminal, and a text
without end fills a page. Both are escaped or cut where such a text enters, or where it is shown when its exact value
matters.
"""

from __future__ import annotations

import json
import re
from typing import Any

LINE, LINES = 500, 8_000
"""Characters of a text that is shown on one line, and on several."""

_INVISIBLE = (
    "\x7f-\x9f\u2028\u2029\ud800-\udfff"  # DEL and C1 controls, separators of lines, lone surrogates
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what changes the direction of writing
    "\xad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # what nobody sees
)
"""The joiners U+200C and U+200D are not among them: words of several languages need those."""

_IN_JSON = re.compile(f"[{_INVISIBLE}]")
_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_INVISIBLE}]")
_IN_LINE = re.compile(f"[\x00-\x1f{_INVISIBLE}]")


def line(value: object, *, most: int = LINE) -> str:
    """One line of at most ``most`` characters; what is unsafe to show is escaped as in a Python string."""
    return _shown(str(value), _IN_LINE, most)


def lines(value: object, *, most: int = LINES) -> str:
    """As `line`, with newlines and tabs kept; of a long text the beginning and the end, which says most."""
    text = str(value)
    if len(text) > most:
        text = f"{text[: most // 4]}\n{_cut(text)}\n{text[-most // 2 :]}"
    return _shown(text, _IN_LINES, most)


def escaped(text: str) -> str:
    """As `lines`, whole."""
    return _escaped(text, _IN_LINES)


def records(value: Any) -> Any:
    """A value of JSON with every text and every key in it as `line` shows it."""
    if isinstance(value, str):
        return line(value)
    if isinstance(value, dict):
        return {records(key): records(item) for key, item in value.items()}
    return [records(item) for item in value] if isinstance(value, list) else value


def quoted(value: object, *, most: int = 80) -> str:
    """A name or value from elsewhere within a sentence."""
    return f"`{line(value, most=most)}`"


def in_json(text: str) -> str:
    """JSON in which no string holds such a character as it is; it is read as the same value."""
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
