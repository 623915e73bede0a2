"""What all commands share: ``--json``, ``--debug``, and errors that are sentences (or JSON) with an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from fedfm.cli.output import discard
from fedfm.errors import FedfmError, InterruptedRunError, Problem, RecipeError
from fedfm.printable import escaped, in_json

UNFORESEEN = 1
"""Exit code of an error that is no `FedfmError`."""

INTERRUPTED = InterruptedRunError.exit_code


class Command(click.Command):
    """A command with ``--json`` (argument ``as_json``) and ``--debug``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for other programs."),
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show tracebacks of errors."),
        ]


class Group(click.Group):
    """Runs a command and turns what goes wrong into a message and an exit code."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Notes how errors are to be told, before anything can go wrong."""
        ctx.meta["json"], ctx.meta["debug"] = "--json" in args, "--debug" in args
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
            _tell(ctx, "stopped at once; a run that had begun is resumable", INTERRUPTED)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta["debug"]:
                raise
            what = f"{type(error).__name__}: {error}"
            _tell(ctx, f"{what}\nfedfm did not foresee this; --debug shows where it arose", UNFORESEEN)


def _tell(ctx: click.Context, message: str, code: int, problems: Sequence[Problem] = ()) -> None:
    """Prints an error, on standard output as JSON or on standard error as text, and ends the program."""
    if ctx.meta["json"]:
        told = {"error": message, "exit_code": code, "problems": [asdict(problem) for problem in problems]}
        click.echo(in_json(json.dumps(told, ensure_ascii=False)))
    else:
        word, colour = ("interrupted", "yellow") if code == INTERRUPTED else ("error", "red")
        try:
            click.echo(click.style(f"{word}: ", fg=colour, bold=True) + escaped(message), err=True)
        except OSError:  # nothing reads it: the exit code still tells
            discard(sys.stderr)
    ctx.exit(code)
