"""``fedfm proxy``: what a proxy would cost and give away, and how to make one ahead of a run."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fedfm.cli.group import Command, CommandGroup
from fedfm.cli.output import console, print_json

SCORES = ("concat-l2", "product", "activation", "gradient", "reconstruct", "random")
BITS = tuple(f"{part}={bits}" for part in ("attention", "ffn", "embeddings") for bits in (4, 8))
"""Choices of the recipe's ``proxy.score`` and ``proxy.bits``, repeated here, because importing the settings would slow
down every command."""


def _layers(ctx: click.Context, option: click.Parameter, text: str) -> list[int]:
    """Numbers separated by commas."""
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of layers such as 0,-1", ctx, option) from error


@click.group(cls=CommandGroup)
def proxy() -> None:
    """Inspect a proxy of a model, or build one."""


@proxy.command(cls=Command)
@click.argument("model")
@click.option("--ffn-keep", default=0.25, type=click.FloatRange(0, 1, min_open=True), help="Share of neurons kept.")
@click.option("--keep-layers", default="0,-1", callback=_layers, help="Layers that stay whole.")
@click.option("--score", type=click.Choice(SCORES), help="Which neurons stay.")
@click.option("--adapters", default=2, type=click.IntRange(1), help="Layers that an offsite proxy tunes at each end.")
@click.option("--tokens", default=128, type=click.IntRange(1), help="Length of an example.")
@click.option("--batch-size", default=16, type=click.IntRange(1), help="Examples a training step.")
@click.option("--public", help="Public data to probe with: a file, a folder, or builtin:pydoc.")
@click.option("--bits", multiple=True, type=click.Choice(BITS), help="In how many bits matrices are sent; repeatable.")
@click.option("--allow-network", is_flag=True, help="Fetch MODEL and public data from the hub.")
def inspect(
    model: str,
    ffn_keep: float,
    keep_layers: list[int],
    score: str | None,
    adapters: int,
    tokens: int,
    batch_size: int,
    public: str | None,
    bits: tuple[str, ...],
    allow_network: bool,
    as_json: bool,
) -> None:
    """Show what a proxy of MODEL would cost and disclose; trains nothing.

    MODEL is a folder, a hub id, or builtin:NAME. The table shows the backbone, its FedPFT proxy, and proxies of other
    kinds of about the same size. With --public, the proxy's gradients are compared with the backbone's.
    """
    from fedfm.cli.proxy_display import describe_proxy
    from fedfm.proxies.inspection import inspect_proxy
    from fedfm.proxies.settings import Bits

    found = inspect_proxy(
        model,
        ffn_keep=ffn_keep,
        keep_layers=keep_layers,
        score=score,
        adapters=adapters,
        tokens=tokens,
        batch_size=batch_size,
        public=public,
        bits=Bits.model_validate({part: int(number) for part, number in (word.split("=") for word in bits)}),
        allow_network=allow_network,
    )
    if as_json:
        print_json(found)
    else:
        console().print(describe_proxy(found))


@proxy.command(cls=Command)
@click.argument("recipe")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def build(recipe: str, folder: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Build the proxy of RECIPE into a new FOLDER.

    The proxy is cut out of the backbone and fitted on the recipe's public data. A run uses it with proxy.path=FOLDER.
    Clients need only this folder.
    """
    from fedfm.cli.proxy_display import describe_built
    from fedfm.recipe import load_recipe
    from fedfm.server.runs.proxy_tools import build_proxy

    built = build_proxy(load_recipe(recipe, overrides), folder)
    if as_json:
        print_json(built)
    else:
        console().print(describe_built(built))
        click.echo(f"\nNext:  fedfm run {shlex.join((recipe, *overrides, f'proxy.path={folder}'))}")
