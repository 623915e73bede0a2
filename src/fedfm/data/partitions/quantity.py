"""Clients that differ only in size: their shares of the examples are drawn from Dir(α)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.data.partitions.base import Partitioner, Pool, require_examples, synthetic_clients


class Quantity(Partitioner):
    """Sizes q ~ Dir(α·1), with random labels (Li et al., arXiv:2102.02079, §3.3); each client gets at least one."""

    kind: Literal["quantity"] = "quantity"
    """Clients differ in the number of their examples, not in their mix of labels."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """α of the Dirichlet distribution of sizes: smaller is more unequal."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Each client gets one example; the others are assigned in proportion to q, cut at rounded running totals."""
        require_examples(pool.count, clients)
        shares = generator.dirichlet(np.full(clients, self.alpha))
        ends = np.rint(np.cumsum(shares) / shares.sum() * (pool.count - clients)).astype(np.int64) + np.arange(
            1, clients + 1
        )
        return synthetic_clients(np.split(generator.permutation(pool.count), ends[:-1]))
