"""``fedfm ask``: questions to the clients of a run of `retrieval`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json, waiting

if TYPE_CHECKING:
    from rich.table import Table

    from fedfm.server.runs.answers import Answered

LONGEST = 100_000_000
"""Bytes of a file of questions."""


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("questions", nargs=-1, metavar="[QUESTION]...")
@click.option("--questions", "-f", "file", type=click.Path(path_type=Path), help="File with a question in each line.")
@click.option("--most", "-k", default=10, show_default=True, help="Passages of all clients to list for a question.")
@click.option(
    "--choice",
    "choices",
    multiple=True,
    help="A possible answer, several times: clients only score each, and no text of theirs leaves them.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of `ask`, such as ask.per_client=5."
)
def ask(
    folder: Path,
    questions: tuple[str, ...],
    file: Path | None,
    most: int,
    choices: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask RUN's clients, which search their own texts.

    RUN is the folder of a run of `retrieval`. Adds the answers to RUN/answers.jsonl.
    """
    asked = [*questions, *([] if file is None else read_questions(file))]
    if not asked:
        raise click.UsageError("Give a question, or a file of questions with --questions.")
    from fedfm.server import ask

    with waiting("asking the clients"):
        answered = ask(folder, asked, overrides, most=most, choices=choices)
    show_answers(answered, as_json)


def read_questions(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        click.UsageError: it cannot be read.
    """
    try:
        if path.stat().st_size > LONGEST:
            raise click.UsageError(f"{path} is larger than {LONGEST:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8 text (byte {error.start})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def show_answers(answered: Sequence[Answered], as_json: bool) -> None:
    """Prints the answers, or JSON."""
    if as_json:
        print_json([asdict(answer) for answer in answered])
        return
    from fedfm.records import units

    terminal = console()
    for answer in answered:
        terminal.print(answer.question, style="bold")
        terminal.print(_choices(answer) if answer.choices else _passages(answer))
        told = units.counted(answer.snippets, "piece of text", "pieces of text")
        down, up = (units.size(answer.bytes[way]) for way in ("down", "up"))
        played = units.counted(answer.exchanges, "exchange", "exchanges")
        terminal.print(f"{answer.clients} clients answered in {played}; {down} down, {up} up, {told} left them")
        for client, reason in answer.failed.items():
            terminal.print(f"{client} did not answer: {reason}")
        for client, reason in answer.cut_short.items():
            terminal.print(f"{client} did not answer again: {reason}")
        if not answer.complete:
            terminal.print("The list may lack passages that clients did not return")


def _passages(answer: Answered) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("score", "client", "chunk", "text"):
        table.add_column(name, justify="left" if name in ("client", "text") else "right")
    for passage in answer.passages:
        chunk = "" if passage.chunk is None else str(passage.chunk)
        table.add_row(f"{passage.score:.3f}", passage.client, chunk, " ".join((passage.text or "").split()))
    return table


def _choices(answer: Answered) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("score", "clients", "answer"):
        table.add_column(name, justify="left" if name == "answer" else "right")
    for choice in answer.choices:
        table.add_row(f"{choice.score:.3f}", str(choice.votes), choice.text)
    return table
