"""Clients that differ in size only: shares of the examples are drawn from Dir(α)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.data.partitions.base import Partitioner, require_examples, synthetic_clients


class Quantity(Partitioner):
    """Sizes q ~ Dir(α·1), labels as they fall (Li et al., arXiv:2102.02079, §3.3); every client gets one at least."""

    kind: Literal["quantity"] = "quantity"
    """Clients differ in how much they have, not in what."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """α of the Dirichlet distribution of sizes: smaller is more unequal."""

    def split(
        self,
        count: int,
        clients: int,
        generator: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        column: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """One example each first; the others are dealt in proportion to q, cut at the rounded running total."""
        require_examples(count, clients)
        shares = generator.dirichlet(np.full(clients, self.alpha))
        ends = np.rint(np.cumsum(shares) / shares.sum() * (count - clients)).astype(np.int64) + np.arange(
            1, clients + 1
        )
        return synthetic_clients(np.split(generator.permutation(count), ends[:-1]))
