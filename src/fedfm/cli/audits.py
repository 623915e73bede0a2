"""``fedfm audit``: what a finished run gives away."""

from __future__ import annotations

from pathlib import Path

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json

EXAMPLES = 2000
"""The default of `fedfm.server.audit`, repeated here, because importing it would slow down every command."""


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--examples",
    default=EXAMPLES,
    show_default=True,
    type=click.IntRange(1),
    help="Measure at most so many training examples, and as many others.",
)
def audit(folder: Path, examples: int, as_json: bool) -> None:
    """Measure what RUN's model tells of its data.

    Writes audit.json, and adds to the report and the model card. The run's data must be where it was. Canaries
    (audit.canaries in the recipe) must be planted before the run.
    """
    from fedfm.records.folder import RunFolder

    RunFolder.open(folder)
    from fedfm.server import audit

    found = audit(folder, examples=examples)
    if as_json:
        print_json(found)
        return
    from fedfm.printable import records
    from fedfm.privacy.statement import statement
    from fedfm.records import audits

    terminal, found = console(), records(found)
    terminal.print(f"promised: {statement(found['promised']).short}")
    for line in audits.lines(found):
        terminal.print(f"measured: {line}", markup=False)
    for name, reason in found["not_measured"].items():
        terminal.print(f"{audits.TITLES[name]}: not measured: {reason}", markup=False)
    for warning in filter(None, [audits.refuted(found), *audits.planted_warnings(found["canaries"])]):
        terminal.print(warning, style="yellow", markup=False)
    terminal.print(f"in {folder}/: audit.json  report.html", markup=False)
