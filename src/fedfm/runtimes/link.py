"""The network between server and clients, for estimates of the time that messages take."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BeforeValidator, Field

from fedfm.settings import Settings

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(bit|B)(?:it)?(?:/s|ps)?", re.ASCII)
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def _bits_a_second(value: object) -> object:
    """A rate as bits a second; numbers are bits a second already."""
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise ValueError("must be a rate such as `10Mbit` or `1.25MB` (a second), or bits a second as a number")
    number, prefix, unit = found.groups()
    return float(number) * _PREFIX[prefix] * (8 if unit == "B" else 1)


Rate = Annotated[float, BeforeValidator(_bits_a_second), Field(gt=0, allow_inf_nan=False)]


class ClientLine(Settings):
    """The network of some clients."""

    up: Rate
    """From a client to the server, such as `10Mbit` or `1.25MB` a second; a number is bits a second."""
    down: Rate
    """From the server to a client, likewise."""
    latency: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds that a message takes beside its bytes."""

    def seconds(self, *, down: int, up: int, messages: int) -> float:
        """Seconds that a client takes to receive ``down`` bytes and to send ``up`` bytes, in so many messages."""
        return 8 * down / self.down + 8 * up / self.up + self.latency * messages


class Link(ClientLine):
    """The recipe's ``runtime.link``; estimates only, nothing waits for it."""

    clients: dict[str, ClientLine] = {}
    """The network of clients whose ids match a pattern, such as `phone-*`; the first match counts."""

    def of(self, client: str) -> ClientLine:
        """The network of a client."""
        return next((line for pattern, line in self.clients.items() if fnmatchcase(client, pattern)), self)
