"""One-peer exponential: each client sends to one other, at a distance that doubles from round to round.

Ying et al., Exponential Graph is Provably Efficient for Decentralized Deep Training, arXiv:2110.13363, §4. With n
clients at places 0 … n − 1 and τ = ⌈log₂ n⌉, the client at place i gets in round t the values of place

    i − 2^((t − 1) mod τ)   (mod n).

W of a round has ½ there and on the diagonal. Where n is a power of 2, the product of τ rounds is the exact mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from fedfm import capabilities
from fedfm.protocols.graphs.base import Graph, Senders


class Exponential(Graph):
    """Each client sends to one other a round, at distances 1, 2, 4, … in turn."""

    kind: Literal["exponential"] = "exponential"
    """Each client sends to one other a round, at distances 1, 2, 4, … in turn (arXiv:2110.13363)."""

    takes: ClassVar[Mapping[str, str]] = {
        capabilities.UPDATE_PATH: "a client sends to others in each round, and compressed differences need receivers "
        "that have all earlier ones",
    }

    def period(self, clients: int) -> int:
        """τ = ⌈log₂ n⌉."""
        return max(1, math.ceil(math.log2(clients)))

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """One client each."""
        distance = 2 ** ((number - 1) % self.period(len(clients)))
        return {
            client: frozenset({clients[(place - distance) % len(clients)]}) - {client}
            for place, client in enumerate(clients)
        }

    def attendance(self, absence: float) -> float:
        """Every client that is there sends one message, unless it is alone."""
        return 1 - absence

    def among(self, present: Sequence[str], clients: Sequence[str], number: int) -> Senders:
        """The graph of those that are there, who close ranks: an absent client breaks no chain."""
        return self.senders(present, number) if present else {}
