"""Independent and identically distributed clients: each gets a random part of the same size."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedfm.data.partitions.base import Partitioner, Pool, require_examples, synthetic_clients


class Iid(Partitioner):
    """A random permutation, cut into parts whose sizes differ by at most one."""

    kind: Literal["iid"] = "iid"
    """Every client gets a random part of the same size."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Needs neither labels nor a column."""
        require_examples(pool.count, clients)
        return synthetic_clients(np.array_split(generator.permutation(pool.count), clients))
