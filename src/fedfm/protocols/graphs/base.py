"""What a graph of clients is: whose values each client gets in a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedfm.errors import RecipeError
from fedfm.printable import line
from fedfm.settings import Settings

WHERE = "protocol.graph"

Senders = Mapping[str, frozenset[str]]
"""Client id → the clients whose values it gets; never itself."""

NAMED = 3
"""Clients that an error names, at most."""


class Graph(Settings):
    """Who sends to whom. Neighbours send each other; or each client sends to d others and gets values from d others."""

    kind: str

    @property
    def digest(self) -> str:
        """Of what the graph depends on outside of the recipe; empty: nothing."""
        return ""

    def period(self, clients: int) -> int:
        """Rounds after which the graph of so many clients repeats."""
        return 1

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """The graph of a round in which all clients are there.

        Args:
            clients: ids, in the order that decides their places.
            number: 1-based round.

        Raises:
            RecipeError: there is no such graph of these clients.
        """
        raise NotImplementedError

    def attendance(self, absence: float) -> float:
        """Share of the messages of a whole round that are sent where each client is absent with some probability.

        Args:
            absence: this probability, independent for each client.
        """
        return (1 - absence) ** 2

    def among(self, present: Sequence[str], clients: Sequence[str], number: int) -> Senders:
        """The graph of a round in which only some clients are there: the edges between them.

        Args:
            present: ids of those that are there, in the order of ``clients``.
            clients: ids of all.
            number: 1-based round.

        Raises:
            RecipeError: there is no such graph of these clients.
        """
        here = frozenset(present)
        return {client: of & here for client, of in self.senders(clients, number).items() if client in here}

    def check(self, clients: Sequence[str]) -> None:
        """Checks that what a client has can reach every other one.

        Raises:
            RecipeError: it cannot, or there is no such graph of these clients.
        """
        rounds = [self.senders(clients, number) for number in range(1, self.period(len(clients)) + 1)]
        joined = {client: frozenset[str]().union(*(graph[client] for graph in rounds)) for client in clients}
        inside = reached(joined, clients[0])
        if apart := [client for client in clients if client not in inside]:
            raise RecipeError(
                f"the graph `{self.kind}` is not connected: {named(apart)} and {named(sorted(inside))} have no path to "
                "each other, so that they would never agree; add an edge between them",
                where=WHERE,
            )


def reached(graph: Senders, start: str) -> set[str]:
    """The clients whose values reach one client over any number of edges, with itself."""
    found, waiting = {start}, [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def named(clients: Sequence[str]) -> str:
    """Some clients for a message, the first by name."""
    more = f" and {len(clients) - NAMED} more" if len(clients) > NAMED else ""
    kind = "client" if len(clients) == 1 else "clients"
    return f"{kind} {', '.join(f'`{line(client)}`' for client in clients[:NAMED])}{more}"


def refused(reason: str) -> RecipeError:
    """Why there is no such graph of these clients."""
    return RecipeError(reason, where=WHERE)
