"""Shared by all commands: ``--json``, ``--debug``, and errors as sentences (or JSON) with an exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from fedfm.cli.output import console
from fedfm.errors import FedfmError, InterruptedRunError, Problem, RecipeError
from fedfm.printable import in_json

UNFORESEEN = 1
"""Exit code of an error that is not a `FedfmError`."""

INTERRUPTED = InterruptedRunError.exit_code


class Command(click.Command):
    """A command with ``--json`` (argument ``as_json``) and ``--debug``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for other programs."),
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks of errors."),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses as click does; a key of the recipe that is written as an option gives an error with the right form."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if any(parameter.name == "overrides" for parameter in self.params):
                answer = _as_override(error.option_name, given, certain=bool(error.possibilities))
                if answer:
                    raise click.UsageError(answer, ctx) from error
            raise


class CommandGroup(click.Group):
    """Runs a command and turns errors into a message and an exit code."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads ``--json`` and ``--debug`` first, so that they also apply to errors of parsing."""
        ctx.meta["json"], ctx.meta["debug"] = "--json" in args, "--debug" in args
        if any("\0" in argument for argument in args):
            raise click.UsageError("An argument contains a NUL character, which no name may contain.", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except FedfmError as error:
            if ctx.meta["debug"]:
                raise
            _tell(ctx, str(error), error.exit_code, error.problems if isinstance(error, RecipeError) else ())
        except click.UsageError as error:
            if not ctx.meta["json"]:
                raise
            _tell(ctx, error.format_message(), error.exit_code)
        except KeyboardInterrupt:
            _tell(ctx, "stopped immediately; a run that had begun can be resumed", INTERRUPTED)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta["debug"]:
                raise
            what = f"{type(error).__name__}: {error}"
            _tell(ctx, f"{what}\nThis error is unexpected; --debug shows its traceback", UNFORESEEN)


def _as_override(option: str, arguments: Sequence[str], *, certain: bool) -> str | None:
    """An error for a key of the recipe that was written as an option: ``--rounds 3`` is ``federation.rounds=3``.

    Args:
        option: the option as written.
        arguments: arguments of the command.
        certain: return None unless a key has exactly that name, because an option has a similar name.
    """
    from fedfm.recipe.index import recipe_keys
    from fedfm.recipe.suggestions import dotted_key

    key = dotted_key(option.lstrip("-").replace("-", "_"), recipe_keys(), exactly=certain)
    if key is None and certain:
        return None
    place = next((index for index, argument in enumerate(arguments) if argument.partition("=")[0] == option), None)
    value = "VALUE"
    if place is not None:
        after = arguments[place + 1 : place + 2]
        value = arguments[place].partition("=")[2] or next((word for word in after if not word.startswith("-")), value)
    example = f"{key}={value}" if key else "federation.rounds=5"
    return f"No such option '{option}'. Keys of the recipe are set without dashes: {example}"


def _tell(ctx: click.Context, message: str, code: int, problems: Sequence[Problem] = ()) -> None:
    """Prints an error, on standard output as JSON or on standard error as text, and ends the program."""
    if ctx.meta["json"]:
        told = {"error": message, "exit_code": code, "problems": [asdict(problem) for problem in problems]}
        click.echo(in_json(json.dumps(told, ensure_ascii=False)))
    else:
        word, colour = ("interrupted", "yellow") if code == INTERRUPTED else ("error", "red")
        terminal = console(stderr=True)
        text = Text.assemble((f"{word}: ", f"bold {colour}"), message)
        terminal.print(text, soft_wrap=not terminal.is_terminal)  # a terminal breaks lines between words
    ctx.exit(code)
