"""``fedfm ls``, ``cp``, ``show``: the recipes that are included in fedfm."""

from __future__ import annotations

from pathlib import Path

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json


@click.command(cls=Command)
def ls(as_json: bool) -> None:
    """List the included recipes."""
    from fedfm.recipe.presets import PRESETS, preset_title

    if as_json:
        print_json([{"name": name, "title": preset_title(name)} for name in PRESETS])
        return
    width = max(map(len, PRESETS))
    for name in PRESETS:
        click.echo(f"{name:<{width}}  {preset_title(name)}")
    click.echo("\nRun one:  fedfm run NAME      copy one to change it:  fedfm cp NAME FILE")


@click.command(cls=Command)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def cp(name: str, file: Path, as_json: bool) -> None:
    """Copy the included recipe NAME to a new FILE."""
    from fedfm.recipe.presets import copy_preset

    copy_preset(name, file)
    if as_json:
        print_json({"file": str(file)})
    else:
        click.echo(f"Wrote {file}. Next:  fedfm check {file}")


@click.command(cls=Command)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def show(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show RECIPE with every key filled in and explained.

    Checks each key alone. `fedfm check` also checks the combination of keys, and the data.
    """
    from fedfm.recipe import commented, load_keys

    resolved = load_keys(recipe, overrides)
    if as_json:
        print_json(resolved.model_dump(mode="json"))
        return
    terminal = console()
    if not terminal.is_terminal:
        click.echo(commented(resolved), nl=False)
        return
    from rich.syntax import Syntax

    terminal.print(Syntax(commented(resolved), "yaml", theme="ansi_dark", background_color="default", word_wrap=True))
