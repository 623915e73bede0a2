"""``fedfm evaluate`` and ``fedfm predict``: the model of a run on other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

PREFIX = "probabilities."
"""Prefix of the columns of single classes."""

OF_TASK = "Name of the task, of a model that has learnt several (task.kind: multi)."


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("data")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--task", help=OF_TASK)
def evaluate(folder: Path, data: str, overrides: tuple[str, ...], task: str | None, as_json: bool) -> None:
    """Measure the model of the run in the folder RUN on DATA.

    DATA is a file, a folder, hf:NAME or builtin:NAME, as `data.test` in a recipe. Its columns must have the names of
    the run's data; KEY=VALUE gives other names, such as data.label=class.
    """
    from fedfm.server import evaluate

    found = evaluate(folder, data, overrides, task=task)
    if as_json:
        print_json(found)
        return
    from fedfm.records import units

    terminal = console()
    values = [f"{units.metric_name(name)} {units.metric(name, value)}" for name, value in found["metrics"].items()]
    terminal.print(f"{units.number(found['examples'])} examples: {', '.join(values)}")
    if found["classes"]:
        terminal.print(_classes(found))


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("given", nargs=-1, metavar="[DATA] [KEY=VALUE]...")
@click.option("--prompt", "-p", "prompts", multiple=True, help="A text to answer, in place of DATA; may be repeated.")
@click.option("--task", help=OF_TASK)
@click.option("--class", "classes", multiple=True, help="A class of images, for a model of images and texts; repeated.")
@click.option("--template", "templates", multiple=True, help="A prompt for the classes, such as 'a photo of a {}.'")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, .jsonl or .csv, in place of standard output.",
)
def predict(
    folder: Path,
    given: tuple[str, ...],
    prompts: tuple[str, ...],
    task: str | None,
    classes: tuple[str, ...],
    templates: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Print what RUN's model says of each row of DATA.

    Classes, labels, tags, numbers or answers, by the kind of task, as JSON lines; answers on a terminal as they are
    written.

    DATA and KEY=VALUE are as in `fedfm evaluate`. Labels and answers are not needed. KEY=VALUE also says how a language
    model writes, such as evaluate.generate.max_new_tokens=200 or evaluate.generate.temperature=0.7.

    A model of `image-text` classifies images by names that are given with --class, zero-shot.
    """
    if not given and not prompts:
        raise click.UsageError("name DATA, or give --prompt")
    data, overrides = (None, given) if prompts else (given[0], given[1:])
    if output is not None and output.suffix not in (".jsonl", ".csv"):
        raise click.UsageError(f"--output {output}: its name must end in .jsonl or .csv")
    from fedfm.records import disk
    from fedfm.server import predict

    terminal = console()
    streams = output is None and not as_json and terminal.is_terminal and _writes(folder)
    heard, named = _shown(terminal) if streams else None, {"templates": templates} if templates else {}
    rows = predict(folder, data, overrides, prompts=prompts, heard=heard, task=task, classes=classes, **named)
    if streams:
        terminal.print()
        return
    if output is None:
        if as_json:
            print_json(_nested(rows))
        else:
            click.echo(_lines(rows), nl=False)
        return
    disk.replace_text(output, rows.to_csv(index=False) if output.suffix == ".csv" else _lines(rows))
    if as_json:
        print_json({"path": str(output), "rows": len(rows)})
    else:
        click.echo(f"Wrote {len(rows)} rows to {output}.")


def _nested(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One record a row, with the probabilities of all classes in one field."""
    if not any(str(name).startswith(PREFIX) for name in rows.columns):
        return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
    classes = [name for name in map(str, rows.columns) if name.startswith(PREFIX)]
    return [
        {name: row[name] for name in map(str, rows.columns) if name not in classes}
        | ({"probabilities": {name.removeprefix(PREFIX): row[name] for name in classes}} if classes else {})
        for row in rows.to_dict("records")
    ]


def _writes(folder: Path) -> bool:
    """Whether the model of a run writes, so that its answers can be shown as they come."""
    from fedfm.recipe import load_recipe
    from fedfm.records.folder import RunFolder

    return load_recipe(RunFolder.open(folder).recipe).task.generates


def _shown(terminal: Console) -> Callable[[int, str], None]:
    """Prints answers as they come, with a number where a new one begins."""
    last = -1

    def show(number: int, text: str) -> None:
        nonlocal last
        if number != last:
            terminal.print(("\n\n" if last >= 0 else "") + f"{number + 1}: ", end="", style="dim")
        last = number
        terminal.print(text, end="", soft_wrap=True)

    return show


def _lines(rows: pd.DataFrame) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _nested(rows))


def _classes(found: dict[str, Any]) -> Table:
    """Precision, recall and F1 of each class, and its most frequent wrong prediction."""
    from rich.table import Table

    from fedfm.records import units
    from fedfm.report.sections.classes import mistaken

    table = Table(box=None, pad_edge=False)
    for name in ("class", "examples", "precision", "recall", "F1", "most often predicted instead"):
        table.add_column(name, justify="left" if name in ("class", "most often predicted instead") else "right")
    for index, row in enumerate(found["classes"]):
        figures = (units.metric("accuracy", row[name]) for name in ("precision", "recall", "f1"))
        table.add_row(row["label"], units.number(row["examples"]), *figures, mistaken(found, index))
    return table
