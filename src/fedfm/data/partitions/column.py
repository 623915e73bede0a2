"""Clients as they are in nature: a column says who wrote, drew or owns each example."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedfm.data.partitions.base import Partitioner
from fedfm.errors import RecipeError


class Column(Partitioner):
    """One client for each value of the column that ``data.client`` names."""

    kind: Literal["column"] = "column"
    """The column `data.client` names the client of each example."""

    def split(
        self,
        count: int,
        clients: int,
        generator: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        column: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """All clients that there are, in the order of their names; nothing is drawn, and ``clients`` has no say."""
        if column is None:
            raise RecipeError(
                "`column` needs `data.client`, the column that names clients", where="federation.partition.kind"
            )
        order = np.argsort(column, kind="stable")
        names, starts = np.unique(column[order], return_index=True)
        return {str(name): np.sort(hand) for name, hand in zip(names, np.split(order, starts[1:]), strict=True)}
