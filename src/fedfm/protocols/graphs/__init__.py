"""Graphs of clients without a server, one a file. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.protocols.graphs.base import Graph, Senders
from fedfm.protocols.graphs.complete import Complete
from fedfm.protocols.graphs.erdos_renyi import ErdosRenyi
from fedfm.protocols.graphs.exponential import Exponential
from fedfm.protocols.graphs.file import FileGraph
from fedfm.protocols.graphs.mixing import matrix, metropolis, spectral_gap
from fedfm.protocols.graphs.random_regular import RandomRegular
from fedfm.protocols.graphs.ring import Ring
from fedfm.protocols.graphs.torus import Torus
from fedfm.registry import Choice

GRAPHS: dict[str, type[Graph]] = {
    "ring": Ring,
    "torus": Torus,
    "exponential": Exponential,
    "random-regular": RandomRegular,
    "erdos-renyi": ErdosRenyi,
    "complete": Complete,
    "file": FileGraph,
}

AnyGraph = Annotated[Graph, Choice(GRAPHS, "kind", "fedfm.graphs")]

__all__ = [
    "GRAPHS",
    "AnyGraph",
    "Complete",
    "ErdosRenyi",
    "Exponential",
    "FileGraph",
    "Graph",
    "RandomRegular",
    "Ring",
    "Senders",
    "Torus",
    "matrix",
    "metropolis",
    "spectral_gap",
]
