"""Clients alike: every client gets a random part of the same size."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedfm.data.partitions.base import Partitioner, require_examples, synthetic_clients


class Iid(Partitioner):
    """A random permutation cut into parts whose sizes differ by one at most."""

    kind: Literal["iid"] = "iid"
    """Every client gets a random part of the same size."""

    def split(
        self,
        count: int,
        clients: int,
        generator: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        column: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Needs neither labels nor a column."""
        require_examples(count, clients)
        return synthetic_clients(np.array_split(generator.permutation(count), clients))
