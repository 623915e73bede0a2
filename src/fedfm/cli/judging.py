"""``fedfm judge``: written answers compared by a program of the user."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json, waiting

TIMEOUT_S = 60.0
"""The default of `fedfm.server.judge`, repeated here, because importing it would slow down every command."""


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--command", "-c", required=True, help="The judge, such as 'python judge.py'. No shell reads it.")
@click.option("--against", type=click.Path(path_type=Path), help="Compare with this run, not with RUN before round 1.")
@click.option(
    "--timeout",
    default=TIMEOUT_S,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds for one verdict.",
)
def judge(folder: Path, command: str, against: Path | None, timeout: float, as_json: bool) -> None:
    """Let a program of yours compare answers of RUN's model.

    RUN had evaluate.generate.examples. The program is started for each verdict. It reads one JSON object from standard
    input, with prompt, a, b (two answers) and answer (the data's, or null), and prints a, b or tie. Each pair is judged
    in both positions. Writes RUN/judge.json and adds to the report.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"--command {command!r}: {error}") from error
    if not words:
        raise click.UsageError("--command is empty")
    from fedfm.server import judge

    with waiting("asking the judge"):
        found = judge(folder, words, against=against, timeout_s=timeout)
    if as_json:
        print_json(found)
        return
    from fedfm.report.sections.samples import judged

    terminal = console()
    terminal.print(f"against {found['against']}:", markup=False)
    for fact in judged(found):
        terminal.print(f"{fact.name}: {fact.value} ({fact.note})", markup=False)
    for reason in dict.fromkeys(row["failed"] for row in found["verdicts"] if row["failed"]):
        terminal.print(f"no verdict: {reason}", style="yellow", markup=False)
