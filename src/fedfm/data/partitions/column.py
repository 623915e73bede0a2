"""A natural federation: a column names the client of each example."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedfm.data.partitions.base import Partitioner, Pool
from fedfm.errors import RecipeError


class Column(Partitioner):
    """One client for each value of the column that ``data.client`` names."""

    kind: Literal["column"] = "column"
    """The column `data.client` names the client of each example."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """One client for each name in the column, in the order of the names; ignores ``clients`` and ``generator``."""
        if pool.column is None:
            raise RecipeError(
                "`column` needs `data.client`, the column that names clients", where="federation.partition.kind"
            )
        order = np.argsort(pool.column, kind="stable")
        names, starts = np.unique(pool.column[order], return_index=True)
        return {str(name): np.sort(hand) for name, hand in zip(names, np.split(order, starts[1:]), strict=True)}
