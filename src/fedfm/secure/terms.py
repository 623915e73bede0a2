"""What all parties of a secure sum must agree on; a module without cryptography, which is an extra."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Bits = Literal[32, 64]
"""Of the words that are summed."""


@dataclass(frozen=True)
class Terms:
    """What a recipe says of secure sums; the server cannot change it.

    Attributes:
        threshold: share of a client's neighbours, of which more must help to remove its masks; and of all clients, of
            which more must confirm who is in the sum.
        neighbors: of each client; None: as many as let a third of them drop out.
        min_clients: of the sum of fewer clients nothing is unmasked.
        clip: as `fedfm.secure.grid.Grid`.
        weight: as `fedfm.secure.grid.Grid`.
        bits: as `fedfm.secure.grid.Grid`.
    """

    threshold: float = 0.5
    neighbors: int | None = None
    min_clients: int = 5
    clip: float = 1.0
    weight: float = 1.0
    bits: Bits = 32

    def degree(self, clients: int) -> int:
        """k, the neighbours of each of so many clients: even, or all others.

        By default 2·⌈3.3·log₂ n⌉, 44 of 100 clients, so that up to 37 clients are all neighbours.
        """
        wanted = 2 * math.ceil(3.3 * math.log2(max(clients, 2))) if self.neighbors is None else self.neighbors
        return min(wanted, clients - 1)

    def least(self, clients: int) -> int:
        """Of so many neighbours or clients those that must help, or agree; more than half of them."""
        return math.floor(self.threshold * clients) + 1
