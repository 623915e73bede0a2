"""Random regular: a random graph in which all clients have equally many neighbours.

Drawn as in Steger and Wormald, Generating Random Regular Graphs Quickly, 1999, Algorithm 2: each client has d ends of
edges, and random pairs of free ends are joined, unless that would make a loop or a second edge. Where no pair is left
to join, or the graph is not connected, the drawing starts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.protocols.graphs.base import Graph, Senders, reached, refused
from fedfm.randomness import numpy_generator

TRIES = 1000


class RandomRegular(Graph):
    """A random connected graph in which each client has `degree` neighbours; the same in all rounds."""

    kind: Literal["random-regular"] = "random-regular"
    """A random connected graph in which each client has equally many neighbours; the same in all rounds."""
    degree: Annotated[int, Field(ge=2)] = 4
    """d: neighbours of each client, fewer than there are other clients or as many; d times the clients is even."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the graph; the run's own seed does not change it."""

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """The neighbours."""
        count = len(clients)
        if self.degree >= count or count * self.degree % 2:
            needs = "more clients than that" if self.degree >= count else "an even number of clients, or an even degree"
            raise refused(f"{count} clients cannot have {self.degree} neighbours each: that needs {needs}")
        generator = numpy_generator(self.seed, self.kind)
        for _ in range(TRIES):
            edges = _drawn(count, self.degree, generator)
            if edges is not None:
                found = {
                    client: frozenset(clients[other] for other in edges[place]) for place, client in enumerate(clients)
                }
                if len(reached(found, clients[0])) == count:
                    return found
        raise refused(f"no connected graph of {count} clients was found in {TRIES} tries; choose another seed")


def _drawn(count: int, degree: int, generator: np.random.Generator) -> list[set[int]] | None:
    """The neighbours of each place; None where the last free ends cannot be joined."""
    edges: list[set[int]] = [set() for _ in range(count)]
    free = np.repeat(np.arange(count), degree)
    while len(free):
        generator.shuffle(free)
        left = []
        for one, other in free.reshape(-1, 2).tolist():
            if one == other or other in edges[one]:
                left += [one, other]
            else:
                edges[one].add(other)
                edges[other].add(one)
        if len(left) == len(free) and not any(
            one != other and other not in edges[one] for one in left for other in left
        ):
            return None
        free = np.array(left, dtype=np.int64)
    return edges
