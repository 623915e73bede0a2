"""Ring: each client has two neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fedfm.protocols.graphs.base import Graph, Senders


class Ring(Graph):
    """Each client has two neighbours: those before and after it, in the order of their ids."""

    kind: Literal["ring"] = "ring"
    """Each client has two neighbours: those before and after it, in the order of their ids."""

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """The clients at places i − 1 and i + 1."""
        count = len(clients)
        return {
            client: frozenset({clients[place - 1], clients[(place + 1) % count]}) - {client}
            for place, client in enumerate(clients)
        }
