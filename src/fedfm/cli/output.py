"""How commands print: JSON for programs, tables and colours for people, plain text where there is no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from fedfm.printable import escaped, in_json

PLAIN_WIDTH = 160
"""Characters of a line in logs and pipes."""


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(in_json(json.dumps(value, indent=2, ensure_ascii=False)))


class _Escape(RenderHook):
    """Escapes what would control the terminal in every text that is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(renderable) for renderable in renderables]


class _Escaped:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, terminal: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in terminal.render(self.renderable, options):
            yield Segment(text if control else escaped(text), style, control)


def console(*, stderr: bool = False) -> Console:
    """The terminal; words of data are never taken for markup nor control it, and numbers are not coloured."""
    terminal = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    terminal.push_render_hook(_Escape())
    if not terminal.is_terminal:
        terminal.width = PLAIN_WIDTH
    return terminal
