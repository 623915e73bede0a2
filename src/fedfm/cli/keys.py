"""``fedfm keys`` and ``fedfm certs``: what nodes and their server prove to each other who they are with."""

from __future__ import annotations

from pathlib import Path

import click

from fedfm.cli.extras import needs_flower
from fedfm.cli.group import Command, CommandGroup
from fedfm.cli.output import print_json


@click.group(cls=CommandGroup)
def keys() -> None:
    """Make a node's key, or show its fingerprint."""


@keys.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
def new(path: Path, as_json: bool) -> None:
    """Make a node's private key PATH and its public key PATH.pub.

    The private key stays on the node. The public key goes to the server's operator, who lets the node join with it.
    """
    with needs_flower():
        from fedfm.runtimes.flower.keys import key_fingerprint, new_key

    public = new_key(path)
    fingerprint = key_fingerprint(public)
    if as_json:
        print_json({"private": str(path), "public": str(public), "fingerprint": fingerprint})
        return
    click.echo(
        f"Send {public} to the server's operator, and verify its fingerprint out of band:\n"
        f"  {fingerprint}\n"
        f"Keep {path} here, and to yourself: whoever has it is this node."
    )


@keys.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
def fingerprint(paths: tuple[Path, ...], as_json: bool) -> None:
    """Print the fingerprint of each key, as `ssh-keygen -lf` does.

    Each PATH is a public key, or a private key of which the public half is looked at.
    """
    with needs_flower():
        from fedfm.runtimes.flower.keys import key_fingerprint

    _print([(path, key_fingerprint(path)) for path in paths], as_json)


@click.group(cls=CommandGroup)
def certs() -> None:
    """Make certificates for a first try, or compare some."""


@certs.command(cls=Command, name="new")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def new_certs(folder: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Make an authority and a certificate of a server in DIR, for a first try.

    Each NAME is a host name or an address by which nodes reach the server; name localhost too if a reverse proxy
    stands before it. The authority's own key is forgotten: nobody can sign with it again.
    """
    with needs_flower():
        from fedfm.runtimes.flower.keys import (
            AUTHORITY,
            CERTIFICATE,
            DAYS,
            KEY,
            certificate_fingerprint,
            new_certificates,
        )

    new_certificates(folder, names)
    authority, certificate, key = folder / AUTHORITY, folder / CERTIFICATE, folder / KEY
    fingerprint = certificate_fingerprint(authority)
    if as_json:
        paths = {"authority": str(authority), "certificate": str(certificate), "key": str(key)}
        print_json({**paths, "fingerprint": fingerprint, "days": DAYS})
        return
    click.echo(
        f"Send {authority} to every node, and verify its fingerprint out of band:\n"
        f"  {fingerprint}\n"
        f"The server shows {certificate}. Keep {key} there, and to yourself: whoever has it is the server.\n"
        f"All are good for {DAYS} days. A federation in earnest takes certificates of an authority of its own."
    )


@certs.command(cls=Command, name="fingerprint")
@click.argument("path", metavar="DIR_OR_FILE", type=click.Path(path_type=Path))
def fingerprint_of_certs(path: Path, as_json: bool) -> None:
    """Print the fingerprint of certificates, as openssl does.

    DIR is a folder that `fedfm certs new` made; of a FILE the first certificate counts. The same is printed by
    `openssl x509 -in FILE -noout -fingerprint -sha256`.
    """
    with needs_flower():
        from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, certificate_fingerprint

    files = [path]
    if path.is_dir():
        server = path / CERTIFICATE  # nodes get the authority's alone
        files = [path / AUTHORITY, *([server] if server.exists() else [])]
    _print([(file, certificate_fingerprint(file)) for file in files], as_json)


def _print(fingerprints: list[tuple[Path, str]], as_json: bool) -> None:
    if as_json:
        print_json([{"path": str(path), "fingerprint": value} for path, value in fingerprints])
        return
    for path, value in fingerprints:
        click.echo(f"{value}  {path}")
