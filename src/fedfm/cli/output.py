"""How commands print: JSON for programs, tables and colours for people, plain text where there is no terminal."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

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


class Output:
    """A standard stream whose reader may go away: the end of a pipe, or a terminal that is closed.

    What is written from then on goes nowhere, also what Python itself writes as it ends.

    Attributes:
        lost: whether the reader has gone.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Writes text, if it can be read."""
        with self._reader():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hands over what was written, if it can be read."""
        with self._reader():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self.lost = True
            discard(self._stream)


def discard(stream: IO[str]) -> None:
    """Lets a stream whose reader has gone end in nothing."""
    with suppress(OSError, ValueError):  # one in memory has no descriptor
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def console(*, stderr: bool = False) -> Console:
    """The terminal; words of data are never taken for markup nor control it, and numbers are not coloured."""
    output = Output(sys.stderr if stderr else sys.stdout)
    terminal = Console(file=cast("IO[str]", output), markup=False, highlight=False, emoji=False)
    terminal.push_render_hook(_Escape())
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
