"""A SuperLink whose control interface answers only who knows its secret.

Flower 1.41 has authentication of that interface by OpenID Connect, in its commercial edition; without it, every account
of the machine may start and stop runs. The interface for such plugins is open, and this one compares a bearer token
that both sides derive from the file of the SuperLink's secret, which only this user can read.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from flwr.cli.auth_plugin import NoOpCliAuthPlugin
from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.supercore.auth.typing import AccountInfo
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin

from fedfm.runtimes.flower.programs import replace

SECRET_OPTION = "--superexec-auth-secret-file"  # noqa: S105 - no secret
"""Flower's option for the file of the secret that SuperLink and SuperExec share."""

Metadata = Sequence[tuple[str, str | bytes]]


def token(secret: Path) -> str:
    """The bearer token of the control interface: another value than the SuperExec's key, from the same secret.

    Raises:
        OSError: the file cannot be read.
    """
    return hmac.new(secret.read_bytes(), b"fedfm: control interface", hashlib.sha256).hexdigest()


class ServerSide(NoOpControlAuthnPlugin):
    """Takes requests that bring the token, and gives none away."""

    def __init__(self, secret: Path) -> None:
        """Reads the token once: a SuperLink keeps the secret that it was started with."""
        self._token = token(secret)

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        """Whether the token is there, and Flower's one account."""
        brought = str(dict(metadata).get(ACCESS_TOKEN_KEY, ""))
        if not hmac.compare_digest(brought.encode(), self._token.encode()):
            return False, None
        return super().validate_tokens_in_metadata(metadata)

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        """Nothing: there is one token, and it stays."""
        return None, None


class ClientSide(NoOpCliAuthPlugin):
    """Brings the token."""

    def __init__(self, secret: Path) -> None:
        """Reads the token of the SuperLink that was last started with this file."""
        self._token = token(secret)

    def write_tokens_to_metadata(self, metadata: Metadata) -> Metadata:
        """The metadata with the token."""
        return [*metadata, (ACCESS_TOKEN_KEY, self._token)]


def main() -> None:
    """Runs as ``flower-superlink``."""
    program = import_module("flwr.superlink.cli.flower_superlink")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument(SECRET_OPTION, type=Path, required=True, dest="secret")
    secret = parser.parse_known_args()[0].secret
    replace(program, load_control_authn_plugin=lambda: ServerSide(secret))
    program.flower_superlink()
