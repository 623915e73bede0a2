"""Output of commands: JSON for programs, tables and colours on a terminal, plain text elsewhere."""

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
    """Prints one JSON value on standard output."""
    click.echo(in_json(json.dumps(value, indent=2, ensure_ascii=False)))


class _Escape(RenderHook):
    """Escapes control characters in every text that is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(renderable) for renderable in renderables]


class _Escaped:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self.renderable = renderable

    def __rich_console__(self, terminal: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in terminal.render(self.renderable, options):
            yield Segment(text if control else escaped(text), style, control)


class Output:
    """A standard stream whose reader may close: the end of a pipe, or a terminal.

    Later output is discarded, also that of Python at exit.

    Attributes:
        lost: whether the reader has closed.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Writes text, unless the reader has closed."""
        with self._reader():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, unless the reader has closed."""
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
    """Redirects a stream whose reader has closed to the null device."""
    with suppress(OSError, ValueError):  # one in memory has no descriptor
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def console(*, stderr: bool = False) -> Console:
    """The terminal. Texts of data are never interpreted as markup or control characters; numbers are not coloured."""
    output = Output(sys.stderr if stderr else sys.stdout)
    terminal = Console(file=cast("IO[str]", output), markup=False, highlight=False, emoji=False)
    terminal.push_render_hook(_Escape())
    if not terminal.is_terminal:
        terminal.width = PLAIN_WIDTH
    return terminal


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on standard error what the block waits for: a spinner on a terminal, else one line."""
    terminal = console(stderr=True)
    if terminal.is_terminal:
        with terminal.status(what):
            yield
    else:
        terminal.print(f"{what} …")
        yield
