"""``fedfm run``, ``resume``, ``forget``, ``status``, ``report``, ``export``: runs and their results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json

BUDGET_REACHED = 6
"""Exit code of a run that ended before its last round to keep its privacy budget; its files are complete."""

if TYPE_CHECKING:
    from fedfm.server import Run
    from fedfm.server.runs.forgetting import How
    from fedfm.trackers.listeners import Listener


@click.command(cls=Command)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--profile", is_flag=True, help="Record the time by phase, in profile.json and in the report.")
def run(recipe: str, overrides: tuple[str, ...], profile: bool, as_json: bool) -> None:
    """Run RECIPE from its first round to its report.

    KEY=VALUE sets any key of the recipe, such as federation.rounds=5, local.learning_rate=1e-3 or tune.kind=ia3.
    A value is YAML: null, [a, b], {kind: dirichlet, alpha: 0.1}. Setting the key that chooses the kind of a group
    (tune.kind, algorithm.name, …) resets the other keys of that group to their defaults, unless they are set as well.
    """
    from fedfm.server import run
    from fedfm.server.runs.refusals import refuse_unrunnable

    refuse_unrunnable(recipe, overrides)
    follow(lambda display: run(recipe, overrides, listeners=[display], profile=profile), as_json)


@click.command(cls=Command)
@click.argument("folder", metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def resume(folder: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Continue the run in the folder RUN where it stopped.

    Only federation.rounds and report_to may be changed. Any other change would make it a different run.
    """
    from fedfm.records.folder import RunFolder
    from fedfm.server import resume
    from fedfm.server.runs.refusals import refuse_unresumable

    refuse_unresumable(RunFolder.open(folder), overrides)
    follow(lambda display: resume(folder, overrides, listeners=[display]), as_json)


@click.command(cls=Command)
@click.argument("folder", metavar="RUN")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--client", required=True, help="Id of the client, as in clients.json.")
@click.option("--out", required=True, metavar="NEWRUN", help="Folder of the new run.")
@click.option(
    "--how",
    type=click.Choice(["replay", "calibrated"]),
    default="replay",
    show_default=True,
    help="Replay the rounds without the client, or approximate that by fewer and shorter rounds.",
)
def forget(folder: str, overrides: tuple[str, ...], client: str, out: str, how: How, as_json: bool) -> None:
    """Play RUN again as if a client had never been there.

    The new run has a folder of its own.
    A replay starts from the last checkpoint before the client first took part, and gives the run that never had the
    client, bit for bit. `calibrated` needs the norms of updates that a run with protocol.norms=true recorded; KEY=VALUE
    may then set local.epochs, local.max_steps and protocol.every. RUN stays as it is; delete it to forget the client.
    """
    from fedfm.server.runs.refusals import refuse_unforgettable

    refuse_unforgettable(folder, client, out, how, overrides)
    from fedfm.server import forget

    follow(lambda display: forget(folder, client, out, how=how, overrides=overrides, listeners=[display]), as_json)


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def status(folder: Path, as_json: bool) -> None:
    """Show the status of the run in the folder RUN."""
    from fedfm.cli.status_display import render_status
    from fedfm.records.status import run_status

    found = run_status(folder)
    if as_json:
        print_json(found)
    else:
        console().print(render_status(found))


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
def report(folder: Path, as_json: bool) -> None:
    """Write the report of the run in the folder RUN again."""
    from fedfm.records.folder import RunFolder
    from fedfm.report.page import write_report

    page = write_report(RunFolder.open(folder).path)
    if as_json:
        print_json({"report": str(page)})
    else:
        click.echo(f"Wrote {page}.")


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--merge", is_flag=True, help="Write the whole model with the tuned parameters merged, in place of the adapter."
)
def export(folder: Path, merge: bool, as_json: bool) -> None:
    """Write the adapter or merged model of the run in the folder RUN."""
    from fedfm.records.folder import RunFolder

    RunFolder.open(folder)
    from fedfm.server import export

    target = export(folder, merge=merge)
    if as_json:
        print_json({"path": str(target)})
    else:
        click.echo(f"Wrote {target}. Its README.md has the code to load it.")


def follow(start: Callable[[Listener], Run], as_json: bool) -> None:
    """Starts a run and shows its progress and its outcome."""
    from fedfm.cli.display import PlainDisplay, RichDisplay, describe_outcome

    terminal = console(stderr=as_json)
    if not terminal.is_terminal:
        console(stderr=True).print("loading libraries, data and model …")
    with RichDisplay(terminal) if terminal.is_terminal else PlainDisplay(terminal) as display:
        finished = start(display)
    if as_json:
        print_json({"folder": str(finished.path), **finished.summary})
    else:
        terminal.print(describe_outcome(finished.path, finished.summary))
    if finished.summary["status"] == "budget":
        click.get_current_context().exit(BUDGET_REACHED)
