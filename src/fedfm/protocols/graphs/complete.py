"""Complete: all clients are neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fedfm.protocols.graphs.base import Graph, Senders


class Complete(Graph):
    """Every client is a neighbour of every other one."""

    kind: Literal["complete"] = "complete"
    """Every client is a neighbour of every other one; a round costs n·(n − 1) messages."""

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """All others."""
        everyone = frozenset(clients)
        return {client: everyone - {client} for client in clients}
