"""How commands print: JSON for programs, tables and colours for people, plain text where there is no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on standard error, at once, what the block waits for: a spinner on a terminal, else one line."""
    terminal = console(stderr=True)
    if terminal.is_terminal:
        with terminal.status(what):
            yield
    else:
        terminal.print(f"{what} …")
        yield
