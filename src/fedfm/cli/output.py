"""How commands print: JSON for programs, tables and colours for people, plain text where there is no terminal."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

PLAIN_WIDTH = 160
"""Characters of a line in logs and pipes."""


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """The terminal; words of data are never taken for markup, and numbers are not coloured."""
    terminal = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not terminal.is_terminal:
        terminal.width = PLAIN_WIDTH
    return terminal
