"""What is printed on a terminal is text, whatever it contains."""

from __future__ import annotations

import json
from io import StringIO

import click
import pytest
from click.testing import CliRunner
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fedfm.cli.display import PlainDisplay
from fedfm.cli.group import Command, CommandGroup
from fedfm.cli.output import console, print_json
from fedfm.errors import DataError, Problem, RecipeError
from tests.hostile import TEXT, UNSAFE


def printed(*renderables: object) -> str:
    terminal = console()
    terminal.file = StringIO()
    for renderable in renderables:
        terminal.print(renderable)
        terminal.print(renderable, soft_wrap=True)
    return terminal.file.getvalue()


def test_whatever_is_printed_controls_nothing() -> None:
    table = Table("client", "why", box=None)
    table.add_row(Text(TEXT), Text(TEXT, style="red"))
    shown = printed(TEXT, Text(TEXT), table)
    assert not UNSAFE & set(shown)
    assert "[red]x[/red]" in shown
    assert "\\x1b[2J\\x9b31m" in shown
    assert "\\u202egnp" in shown


def test_colours_of_our_own_stay_and_the_bar_moves() -> None:
    terminal = console()
    terminal.file = out = StringIO()
    terminal._force_terminal = True
    with Progress(console=terminal, transient=True) as bar:
        bar.add_task("round 1", total=2)
        terminal.print(Text(TEXT))
    shown = out.getvalue()
    assert "\x1b[" in shown  # of the bar
    assert "\x1b[2J" not in shown
    assert "\\x1b[2J" in shown


def test_warnings_and_rounds_are_printed_safely() -> None:
    terminal = console()
    terminal.file = out = StringIO()
    PlainDisplay(terminal).on_warning(f"site does not take part: {TEXT}")
    assert not UNSAFE & set(out.getvalue())


@pytest.mark.parametrize("error", [DataError(TEXT), RecipeError([Problem(TEXT, TEXT, TEXT)]), ValueError(TEXT)])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_errors_are_told_safely(error: Exception, options: list[str]) -> None:
    @click.group(cls=CommandGroup)
    def group() -> None: ...

    @group.command(cls=Command)
    def fail(as_json: bool) -> None:
        raise error

    done = CliRunner().invoke(group, ["fail", *options])
    assert done.exit_code == getattr(error, "exit_code", 1)
    assert not UNSAFE & set(done.output)
    if options:
        assert TEXT in json.loads(done.output)["error"]


def test_json_is_safe_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({TEXT: [TEXT]})
    shown = capsys.readouterr().out
    assert not UNSAFE & set(shown)
    assert json.loads(shown) == {TEXT: [TEXT]}
