"""``fedfm keys`` and ``fedfm certs``: keys and certificates by which sites and their server identify each other."""

from __future__ import annotations

from pathlib import Path

import click

from fedfm.cli.extras import needs_flower
from fedfm.cli.group import Command, CommandGroup
from fedfm.cli.output import print_json


@click.group(cls=CommandGroup)
def keys() -> None:
    """Make the key of a site, or show its fingerprint."""


@keys.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
def new(path: Path, as_json: bool) -> None:
    """Make a site's private key PATH and its public key PATH.pub.

    The private key stays at the site. The operator of the server admits the site by its public key.
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
        f"Keep {path} secret and on this machine: it identifies this site."
    )


@keys.command(cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
def fingerprint(paths: tuple[Path, ...], as_json: bool) -> None:
    """Print the fingerprint of each key, as `ssh-keygen -lf` does.

    Each PATH is a public key, or a private key; of a private key, the public half is used.
    """
    with needs_flower():
        from fedfm.runtimes.flower.keys import key_fingerprint

    _print([(path, key_fingerprint(path)) for path in paths], as_json)


@click.group(cls=CommandGroup)
def certs() -> None:
    """Make certificates for a trial, or show their fingerprints."""


@certs.command(cls=Command, name="new")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def new_certs(folder: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Make an authority and a server certificate in DIR, for a trial.

    Each NAME is a host name or an address by which sites reach the server. Add localhost if a reverse proxy is in front
    of the server. The key of the authority is not kept, so nothing can be signed with it again.
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
        f"Send {authority} to every site, and verify its fingerprint out of band:\n"
        f"  {fingerprint}\n"
        f"The server presents {certificate}. Keep {key} secret and on the server: it identifies the server.\n"
        f"All are valid for {DAYS} days. For production, use certificates of your own authority."
    )


@certs.command(cls=Command, name="fingerprint")
@click.argument("path", metavar="DIR_OR_FILE", type=click.Path(path_type=Path))
def fingerprint_of_certs(path: Path, as_json: bool) -> None:
    """Print the fingerprint of certificates, as openssl does.

    DIR is a folder made by `fedfm certs new`; of a FILE, the first certificate is used. The same is printed by
    `openssl x509 -in FILE -noout -fingerprint -sha256`.
    """
    with needs_flower():
        from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, certificate_fingerprint

    files = [path]
    if path.is_dir():
        server = path / CERTIFICATE  # sites get only that of the authority
        files = [path / AUTHORITY, *([server] if server.exists() else [])]
    _print([(file, certificate_fingerprint(file)) for file in files], as_json)


def _print(fingerprints: list[tuple[Path, str]], as_json: bool) -> None:
    if as_json:
        print_json([{"path": str(path), "fingerprint": value} for path, value in fingerprints])
        return
    for path, value in fingerprints:
        click.echo(f"{value}  {path}")
