"""``fedfm``: the command line. It parses, calls and prints; slow modules are imported when a command runs."""

from __future__ import annotations

import click

import fedfm
from fedfm.cli.asking import ask
from fedfm.cli.audits import audit
from fedfm.cli.checks import check, data
from fedfm.cli.coding import code
from fedfm.cli.group import CommandGroup
from fedfm.cli.inference import evaluate, predict
from fedfm.cli.judging import judge
from fedfm.cli.keys import certs, keys
from fedfm.cli.machines import client, server
from fedfm.cli.proxies import proxy
from fedfm.cli.recipes import cp, ls, show
from fedfm.cli.runs import export, forget, report, resume, run, status


@click.group(
    cls=CommandGroup,
    invoke_without_command=True,
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)
@click.version_option(fedfm.__version__, prog_name="fedfm")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Fine-tune foundation models on data that cannot be brought together.

    \b
      fedfm run demo                          a first run, offline
      fedfm cp sst2-lora my.yaml              copy a recipe to change it
      fedfm check my.yaml                     what a run would do, in numbers
      fedfm run my.yaml federation.rounds=5   set any key of the recipe

    A RECIPE is a file, or a name from `fedfm ls`. Exit codes: 0 done, 2 recipe or usage, 3 data, 4 too few clients,
    5 storage, 130 interrupted (the run can be resumed).
    """  # noqa: D301 - the character \b, which tells click to keep the lines
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (
    ls,
    cp,
    show,
    check,
    data,
    proxy,
    run,
    resume,
    forget,
    status,
    report,
    export,
    evaluate,
    predict,
    judge,
    code,
    ask,
    audit,
    keys,
    certs,
    server,
    client,
):
    main.add_command(_command)

if __name__ == "__main__":
    main(prog_name="fedfm")
