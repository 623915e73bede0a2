"""Erdős–Rényi: a random graph in which each pair of clients is joined with the same probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.protocols.graphs.base import Graph, Senders, reached, refused
from fedfm.randomness import numpy_generator

TRIES = 1000


class ErdosRenyi(Graph):
    """A random connected graph in which each pair of clients is joined with one probability; the same in all rounds."""

    kind: Literal["erdos-renyi"] = "erdos-renyi"
    """A random graph in which each pair of clients is joined with one probability, drawn until it is connected; the
    same in all rounds."""
    probability: Annotated[float, Field(gt=0, le=1)] = 0.3
    """p of each pair; with n clients, a graph with p below log(n)/n is seldom connected."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the graph; the run's own seed does not change it."""

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """The neighbours."""
        count = len(clients)
        generator = numpy_generator(self.seed, self.kind)
        for _ in range(TRIES):
            upper = np.triu(generator.random((count, count)) < self.probability, 1)
            joined = upper | upper.T
            found = {
                client: frozenset(clients[other] for other in np.flatnonzero(joined[place]).tolist())
                for place, client in enumerate(clients)
            }
            if len(reached(found, clients[0])) == count:
                return found
        raise refused(
            f"none of {TRIES} random graphs of {count} clients with protocol.graph.probability {self.probability:g} is "
            f"connected: raise it above log({count})/{count} = {math.log(count) / count:.2g}"
        )
