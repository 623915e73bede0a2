"""A SuperLink whose control interface answers only callers that know its secret.

Flower 1.41 authenticates callers of that interface only in its commercial edition, by OpenID Connect. Without
authentication, every account of the machine may start and stop runs. The plugin interface is open: this plugin compares
a bearer token that both sides derive from the file of the SuperLink's secret, which only this user can read.
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

SECRET_OPTION = "--superexec-auth-secret-file"  # noqa: S105 - not a secret
"""Flower's option for the file of the secret that SuperLink and SuperExec share."""

Metadata = Sequence[tuple[str, str | bytes]]


def token(secret: Path) -> str:
    """The bearer token of the control interface. It is derived from the secret, and differs from the SuperExec's key.

    Raises:
        OSError: the file cannot be read.
    """
    return hmac.new(secret.read_bytes(), b"fedfm: control interface", hashlib.sha256).hexdigest()


class TokenCheck(NoOpControlAuthnPlugin):
    """Accepts requests that carry the token, and gives out no token."""

    def __init__(self, secret: Path) -> None:
        """Reads the token once: a SuperLink keeps the secret that it was started with."""
        self._token = token(secret)

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        """Whether the request carries the token, and Flower's single account."""
        brought = str(dict(metadata).get(ACCESS_TOKEN_KEY, ""))
        if not hmac.compare_digest(brought.encode(), self._token.encode()):
            return False, None
        return super().validate_tokens_in_metadata(metadata)

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        """Refreshes nothing: the token never changes."""
        return None, None


class TokenSender(NoOpCliAuthPlugin):
    """Adds the token to requests."""

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
    replace(program, load_control_authn_plugin=lambda: TokenCheck(secret))
    program.flower_superlink()
