"""Which sites may join a federation, and the files that identify server and sites; read before anything starts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedfm.errors import Problem, RecipeError
from fedfm.runtimes.envelopes import NAME
from fedfm.runtimes.flower.keys import AUTHORITY, CERTIFICATE, KEY, PUBLIC, certificate_fingerprint, key_fingerprint


def keys_by_name(paths: Sequence[Path]) -> dict[str, Path]:
    """The public keys of sites by the sites' names: the names of the files without ``.pub``.

    Args:
        paths: of keys and of folders of keys.

    Raises:
        RecipeError: a file is not a key, two sites have the same name or key, or no key was found; lists every problem.
        StorageError: a file cannot be read.
    """
    files = [file for path in paths for file in (sorted(path.glob(f"*{PUBLIC}")) if path.is_dir() else [path])]
    names: dict[str, Path] = {}
    owners: dict[str, str] = {}
    problems = []
    for file in files:
        name = file.name.removesuffix(PUBLIC)
        if not file.name.endswith(PUBLIC) or not re.fullmatch(NAME, name):
            problems.append(Problem(str(file), f"name it SITE{PUBLIC}, with letters, digits, `.`, `_` and `-` only"))
            continue
        if name in names:
            problems.append(Problem(str(file), f"{names[name]} is the key of a site with the same name"))
            continue
        try:
            key = key_fingerprint(file)
        except RecipeError as error:
            problems += [Problem(str(file), problem.message) for problem in error.problems]
            continue
        if key in owners:
            problems.append(Problem(str(file), f"is also the key of {owners[key]}: each site needs a key of its own"))
        names[name], owners[key] = file, name
    if not names and not problems:
        problems.append(Problem("", f"no public key (NAME{PUBLIC}) in {', '.join(map(str, paths))}"))
    if problems:
        raise RecipeError(problems, source="--allow")
    return names


def check_tls(folder: Path) -> str:
    """The fingerprint of the server's certificate in a folder as ``fedfm certs new`` makes it.

    Raises:
        RecipeError: a file is missing, or is not a certificate.
        StorageError: a file cannot be read.
    """
    if missing := [name for name in (AUTHORITY, CERTIFICATE, KEY) if not (folder / name).is_file()]:
        raise RecipeError(
            f"{folder} has no {' and no '.join(missing)}; `fedfm certs new {folder} HOST localhost 127.0.0.1` makes a "
            "folder for a first try",
            source="--tls",
        )
    certificate_fingerprint(folder / AUTHORITY)
    return certificate_fingerprint(folder / CERTIFICATE)


def check_private_key(path: Path) -> str:
    """The fingerprint of a site's private key.

    Raises:
        RecipeError: it is not a private key.
        StorageError: it cannot be read.
    """
    found = key_fingerprint(path)
    if b"PRIVATE KEY" not in path.read_bytes():
        raise RecipeError(f"is the public key; name the private one, without {PUBLIC}", source=str(path))
    return found
