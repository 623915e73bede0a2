"""The network between server and clients, for estimates of the time that messages take."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from fedfm.client_patterns import first_match
from fedfm.settings import Settings

_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(bit|B)(?:it)?(?:/s|ps)?", re.ASCII)
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def bits_a_second(rate: str | float) -> float:
    """A rate in bits a second, which a number is already.

    Raises:
        ValueError: it is no rate, or not above 0.
    """
    if isinstance(rate, str):
        found = _RATE.fullmatch(rate.strip())
        if found is None:
            raise ValueError("must be a rate such as `10Mbit` or `1.25MB` (a second), or bits a second as a number")
        number, prefix, unit = found.groups()
        rate = float(number) * _PREFIX[prefix] * (8 if unit == "B" else 1)
    if not 0 < rate < math.inf:
        raise ValueError("must be above 0, and finite")
    return rate


def _checked(rate: str | float) -> str | float:
    bits_a_second(rate)
    return rate


Rate = Annotated[str | float, AfterValidator(_checked)]


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
        return 8 * down / bits_a_second(self.down) + 8 * up / bits_a_second(self.up) + self.latency * messages


class Link(ClientLine):
    """The recipe's ``runtime.link``; estimates only, nothing waits for it."""

    clients: dict[str, ClientLine] = {}
    """The network of clients whose ids match a pattern, such as `phone-*`; the first match counts."""

    def of(self, client: str) -> ClientLine:
        """The network of a client."""
        return first_match(self.clients, client, self)
