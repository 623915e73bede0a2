"""``fedfm check``, ``data``: what a recipe would do, without training."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json, waiting


@click.command(cls=Command)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--time", "timed", is_flag=True, help="Take a few local steps, and say how long a round would take.")
def check(recipe: str, overrides: tuple[str, ...], timed: bool, as_json: bool) -> None:
    """Show what a run of RECIPE would do, in numbers.

    Reads the data and loads the model to find what does not fit. Trains nothing, except for a few steps with --time.
    """
    from fedfm.cli.display import describe_plan
    from fedfm.recipe import load_recipe
    from fedfm.server.runs.refusals import refuse_unrunnable

    refuse_unrunnable(recipe, overrides)
    with waiting("loading libraries, data and model"):
        from fedfm.server import plan

        planned = plan(load_recipe(recipe, overrides), timed=timed)
    if as_json:
        print_json(planned)
    else:
        console().print(describe_plan(planned))
        for text in planned["warnings"]:
            click.echo(f"warning: {text}", err=True)
        for advice in planned["advice"]:
            click.echo(f"warning: {advice['where']}: {advice['text']}", err=True)
        click.echo(f"\n{recipe} is valid. Next:  fedfm run {shlex.join((recipe, *overrides))}")


@click.command(cls=Command)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw the split to this file (png, svg or pdf).")
def data(recipe: str, overrides: tuple[str, ...], plot: Path | None, as_json: bool) -> None:
    """Show the split of RECIPE's data, and three examples.

    Of the examples, what the model learns is in colour, or between « and » where there are no colours.
    """
    from fedfm.recipe import load_keys, load_recipe

    load_keys(recipe, overrides)
    with waiting("loading libraries and data"):
        from fedfm.cli.example_display import render_examples
        from fedfm.cli.split_display import render_split
        from fedfm.report.split import plot_split
        from fedfm.server import data_overview

        overview = data_overview(load_recipe(recipe, overrides))
    if plot is not None:
        plot_split(overview["clients"], plot)
    if as_json:
        print_json(overview)
        return
    terminal = console()
    terminal.print(render_split(overview["clients"]))
    terminal.print(render_examples(overview, coloured=terminal.color_system is not None))
    for text in overview["warnings"]:
        click.echo(f"warning: {text}", err=True)
    if plot is not None:
        click.echo(f"\nWrote {plot}")
