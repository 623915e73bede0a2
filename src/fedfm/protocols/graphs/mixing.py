"""Mixing matrices: how much of each neighbour's values a client takes, and how fast clients agree by it.

Metropolis weights (Xiao, Boyd, Fast linear iterations for distributed averaging, 2004, §4.2, with 1 added to each
degree): with the degrees d of the clients,

    W_ij = 1 / (1 + max(d_i, d_j))   for neighbours,      W_ii = 1 − Σ_j W_ij.

W is symmetric where the graph is; its rows and columns sum to 1, so that mixing keeps the clients' mean. The same holds
for a directed graph in which each client sends to d others and gets values from d others. The spectral gap over τ
rounds, J = 𝟏𝟏ᵀ/n,

    1 − ‖W_τ ⋯ W_1 − J‖₂,

is 1 − max(|λ₂|, |λ_n|) for one symmetric W: the share of the clients' distance from their mean that mixing removes at
least, in τ rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedfm.protocols.graphs.base import Graph, Senders

MOST = 1000
"""Clients of which the spectral gap is computed, at most: a dense matrix of theirs takes 8 MB, its norm a second."""


def metropolis(senders: Senders) -> dict[str, dict[str, float]]:
    """Client → its row of W: the weight of itself and of each client whose values it gets, in the graph's order.

    Args:
        senders: the graph of a round.
    """
    degrees = {client: len(others) for client, others in senders.items()}
    rows = {}
    for client, others in senders.items():
        weights = {other: 1 / (1 + max(degrees[client], degrees[other])) for other in others}
        weights[client] = 1 - math.fsum(weights.values())
        rows[client] = {other: weights[other] for other in senders if other in weights}
    return rows


def matrix(senders: Senders) -> np.ndarray:
    """W ``[n, n]`` in float64, rows and columns in the graph's order."""
    places = {client: place for place, client in enumerate(senders)}
    found = np.zeros((len(places), len(places)))
    for client, row in metropolis(senders).items():
        for other, weight in row.items():
            found[places[client], places[other]] = weight
    return found


def spectral_gap(graph: Graph, clients: Sequence[str]) -> float | None:
    """The spectral gap of the product over the graph's period; None for more than `MOST` clients."""
    count = len(clients)
    if count > MOST:
        return None
    product = np.eye(count)
    for number in range(1, graph.period(count) + 1):
        product = matrix(graph.senders(clients, number)) @ product
    return max(0.0, 1 - float(np.linalg.norm(product - 1 / count, 2)))
