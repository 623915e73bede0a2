"""Hostile text for names of clients, classes, files and servers, and the checks that it has no effect."""

from __future__ import annotations

TEXT = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n2026-01-01 00:00:00,000 INFO all is well\x00\u202egnp.exe\u2066\u200b\ufeff\x7f"
    "[red]x[/red] <script>alert(1)</script> {{ 7*7 }} `code` ![i](http://x/y.png) | a | b\n```\n# heading\n---\n'\"\\"
)
"""Escapes, C1 controls, overrides of direction, what is invisible, and the markup of rich, HTML, Markdown and YAML."""

UNSAFE = frozenset("\x00\x07\x08\r\x1b\x7f\x9b\u200b\u202e\u2066\ufeff\ud800")


def assert_shown(text: str) -> None:
    """Nothing in a text that was shown controls what shows it, and none of its lines was made by `TEXT`."""
    assert not UNSAFE & set(text)
    assert not [line for line in text.splitlines() if line.startswith(("2026-01-01", "# heading", "```\n"))]
