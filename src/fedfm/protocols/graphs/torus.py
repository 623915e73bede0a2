"""Torus: a grid of clients without borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from fedfm.protocols.graphs.base import Graph, Senders, refused


class Torus(Graph):
    """Clients lie on a grid whose borders are joined; each has the four neighbours beside, above and below it."""

    kind: Literal["torus"] = "torus"
    """Clients lie on a grid whose borders are joined; each has the neighbours beside, above and below it."""
    rows: Annotated[int, Field(ge=2)] | None = None
    """Rows of the grid, a divisor of the number of clients; null: so that the grid is as square as it can be."""

    def senders(self, clients: Sequence[str], number: int) -> Senders:
        """The client at place i is in row i div c and column i mod c of a grid with c columns."""
        count = len(clients)
        rows = self._rows(count)
        columns = count // rows
        found = {}
        for place, client in enumerate(clients):
            row, column = divmod(place, columns)
            cells = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
            found[client] = frozenset(clients[r % rows * columns + c % columns] for r, c in cells) - {client}
        return found

    def _rows(self, count: int) -> int:
        if self.rows is not None:
            if count % self.rows or count // self.rows < 2:
                raise refused(
                    f"{count} clients do not fill a grid with {self.rows} rows and at least two columns: choose a "
                    "divisor of their number (protocol.graph.rows)"
                )
            return self.rows
        rows = next((rows for rows in range(math.isqrt(count), 1, -1) if count % rows == 0), None)
        if rows is None:
            raise refused(
                f"{count} clients do not fill a grid with at least two rows and two columns; choose another number of "
                "clients, or the graph `ring`"
            )
        return rows
