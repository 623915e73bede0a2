"""``fedfm server``, ``client``: a recipe on real machines, over Flower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import click

from fedfm.cli.asking import read_questions, show_answers
from fedfm.cli.extras import needs_flower
from fedfm.cli.group import Command
from fedfm.cli.output import console, print_json
from fedfm.cli.runs import follow
from fedfm.records.units import duration
from fedfm.runtimes.relay import Wait
from fedfm.trackers.prometheus import Prometheus

FILE = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--tls", type=FILE, required=True, help="Folder of certificates, as made by `fedfm certs new`.")
@click.option(
    "--allow",
    type=FILE,
    multiple=True,
    required=True,
    help="Public key of a site, or a folder of public keys; NAME.pub is the key of the site NAME.",
)
@click.option("--port", default=8443, show_default=True, help="Port of 127.0.0.1 on which to listen.")
@click.option(
    "--state",
    type=FILE,
    default="fedfm-server",
    show_default=True,
    help="Folder for the data that sites need to reconnect.",
)
@click.option("--wait", default=600.0, show_default=True, help="Seconds to wait for all sites to connect.")
@click.option("--ask", "file", type=FILE, help="File with a question in each line: ask the sites of the run RECIPE.")
@click.option("--most", "-k", default=10, show_default=True, help="With --ask: passages of all sites to list.")
@click.option("--metrics", type=int, metavar="PORT", help="Serve /metrics for Prometheus on this port of 127.0.0.1.")
def server(
    recipe: str,
    overrides: tuple[str, ...],
    tls: Path,
    allow: tuple[Path, ...],
    port: int,
    state: Path,
    wait: float,
    file: Path | None,
    most: int,
    metrics: int | None,
    as_json: bool,
) -> None:
    """Run RECIPE with clients that hold their own data.

    RECIPE may be the recipe of a simulation: its training data is ignored, because each site has its own. To continue a
    run, give its folder in place of RECIPE; with --ask, the sites of a finished run search their own texts. Only this
    machine can reach the port; deploy/nginx.conf opens it to sites.
    """
    with needs_flower():
        from fedfm.runtimes.flower.admission import check_tls, keys_by_name
    from fedfm.server.runs.serving import Hosting, ask_sites, serve

    keys, certificate = keys_by_name(allow), check_tls(tls)
    terminal = console(stderr=as_json)
    terminal.print(f"https://127.0.0.1:{port}, certificate {certificate}")
    terminal.print(f"Admitted sites: {', '.join(sorted(keys))}")
    known = set[str]()

    def heard(names: Sequence[str]) -> None:
        for name in sorted(set(names) ^ known):
            word = "disconnected" if name in known else "connected"
            known.symmetric_difference_update([name])
            terminal.print(f"{name} {word} ({len(known)} of {len(keys)})")
        for exported in exports:
            exported.on_sites(names)

    def waits(wait: Wait) -> None:
        terminal.print(describe_wait(wait, datetime.now().astimezone()))

    hosting = Hosting(keys, tls.absolute(), port, state.absolute(), wait)
    if file is not None:
        asked, run = read_questions(file), Path(recipe)
        answered = ask_sites(run, asked, overrides, hosting, most=most, warn=terminal.print, waits=waits)
        show_answers(answered, as_json)
        return
    with ExitStack() as stack:
        exports = [] if metrics is None else [stack.enter_context(Prometheus(metrics))]
        follow(
            lambda display: serve(recipe, overrides, hosting, listeners=[display, *exports], heard=heard, waits=waits),
            as_json,
        )


def describe_wait(wait: Wait, now: datetime) -> str:
    """The sites for which the server waits, and the deadline, in one line."""
    until = "without a deadline (runtime.deadline)"
    if math.isfinite(wait.seconds):
        until = f"until {(now + timedelta(seconds=wait.seconds)):%H:%M:%S}, {duration(wait.seconds)} more"
    return f"waiting for {', '.join(wait.nodes)} to {wait.what}, {until}"


@click.command(cls=Command)
@click.option("--server", "address", required=True, metavar="HOST:PORT", help="Address of the server.")
@click.option(
    "--ca", type=FILE, required=True, help="Certificate of the authority that signed the server's certificate."
)
@click.option("--key", type=FILE, required=True, help="Private key of this site, as made by `fedfm keys new`.")
@click.option("--data", type=FILE, required=True, help="data.yaml: the data of this site.")
@click.option("--policy", type=FILE, help="policy.yaml: what this site allows a server to ask.")
@click.option(
    "--state",
    type=FILE,
    default="fedfm-client",
    show_default=True,
    help="Folder for the ledger of this site and its logs.",
)
def client(address: str, ca: Path, key: Path, data: Path, policy: Path | None, state: Path, as_json: bool) -> None:
    """Take part in the runs of a server, with the data of this site.

    Announces what will leave this machine before it leaves. STATE/wire.jsonl lists what has left.
    """
    with needs_flower():
        from fedfm.runtimes.flower.admission import check_private_key
        from fedfm.runtimes.flower.keys import certificate_fingerprint
        from fedfm.sites.site_agent import SiteAgent

    fingerprint = check_private_key(key)
    certificate_fingerprint(ca)
    terminal = console(stderr=as_json)
    agent = SiteAgent(
        address,
        ca.absolute(),
        key.absolute(),
        data.absolute(),
        policy and policy.absolute(),
        state.absolute(),
        terminal.print,
    )
    examples, columns = agent.check()
    if as_json:
        print_json({"examples": examples, "columns": columns, "key": fingerprint, "server": address})
    terminal.print(f"{examples:,} examples with the columns {', '.join(columns)}; key {fingerprint}")
    terminal.print(f"Connecting to {address}; press Ctrl-C to leave")
    agent.run()
