"""``fedfm code``: what a model writes for code problems is executed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json, waiting


@click.command(cls=Command)
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("data")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-k", "ks", multiple=True, type=click.IntRange(1), default=(1,), show_default=True, help="k of pass@k.")
@click.option("--samples", type=click.IntRange(1), help="Answers to each problem.  [default: the largest k]")
@click.option("--execute", is_flag=True, help="Agree that this machine executes programs that the model wrote.")
@click.option(
    "--unisolated", is_flag=True, help="Execute also where programs cannot be isolated from network and files."
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Seconds.")
@click.option("--memory", type=click.IntRange(64), default=1024, show_default=True, help="MiB for a program's process.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write the answers as JSON.")
def code(
    folder: Path,
    data: str,
    overrides: tuple[str, ...],
    ks: tuple[int, ...],
    samples: int | None,
    execute: bool,
    unisolated: bool,
    timeout: float,
    memory: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Execute the programs that RUN's model writes: pass@k.

    DATA has columns prompt and test, and possibly entry_point, as HumanEval. Each answer is executed with its test, in
    a sandbox. KEY=VALUE says how answers are written, such as evaluate.generate.temperature=0.8.
    """
    if not execute:
        raise click.UsageError(
            "this executes programs that a model wrote, on this machine: agree with --execute (docs: Written answers)"
        )
    import json

    from fedfm.records import disk, units
    from fedfm.server import pass_at_k
    from fedfm.server.runs.sandbox import Sandbox

    sandbox = Sandbox(isolated=not unisolated, timeout_s=timeout, memory_bytes=memory * 2**20)
    with waiting("writing and executing"):
        found = pass_at_k(folder, data, overrides, ks=ks, samples=samples, sandbox=sandbox)
    if output is not None:
        disk.replace_text(output, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    if as_json:
        print_json(found)
        return
    terminal = console()
    counts = f"{units.counted(found['problems'], 'problem', 'problems')}, {found['samples']} samples of each"
    for k, value in found["pass_at"].items():
        terminal.print(f"pass@{k}: {units.share(value, 1)} ({counts})", markup=False)
    reasons = Counter(answer["failure"] for row in found["rows"] for answer in row["answers"] if answer["failure"])
    for reason, count in reasons.most_common(5):
        terminal.print(f"{count} × {reason}", style="yellow", markup=False)
