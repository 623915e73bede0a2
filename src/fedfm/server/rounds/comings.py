"""Who comes and who goes between rounds, by `federation.presence`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fedfm.recipe.federation import FederationSettings


class Coming(NamedTuple):
    """A change of who is there.

    Attributes:
        kind: ``joined`` or ``left``.
        client: client id.
    """

    kind: str
    client: str


def comings(federation: FederationSettings, clients: Iterable[str], number: int) -> Iterator[Coming]:
    """The changes between the round before and a 1-based round; none before round 1.

    Args:
        federation: of the recipe.
        clients: ids of all clients.
        number: of the round.
    """
    if number == 1 or number not in federation.turning_points():
        return
    for client in clients:
        was, now = federation.is_there(client, number - 1), federation.is_there(client, number)
        if was != now:
            yield Coming("joined" if now else "left", client)
