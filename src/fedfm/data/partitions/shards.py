"""Clients with a few labels each: examples are sorted by label and cut into shards, which are assigned to clients."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.capabilities import LABELS
from fedfm.data.partitions.base import Partitioner, Pool, require_examples, synthetic_clients


class Shards(Partitioner):
    """McMahan et al., arXiv:1602.05629, §3: with 2 shards per client, most clients have only two labels."""

    needs = {LABELS: "it splits by label; use iid, quantity or column"}

    kind: Literal["shards"] = "shards"
    """Every client gets a few runs of examples sorted by label."""
    shards_per_client: Annotated[int, Field(ge=1)] = 2
    """Shards per client; a client has about as many labels."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Examples of one label are shuffled before they are cut; shard sizes differ by at most one."""
        classes = self._labels(pool)
        require_examples(pool.count, clients, self.shards_per_client)
        shuffled = generator.permutation(pool.count)
        by_label = shuffled[np.argsort(classes[shuffled], kind="stable")]
        shards = np.array_split(by_label, clients * self.shards_per_client)
        hands = generator.permutation(len(shards)).reshape(clients, self.shards_per_client)
        return synthetic_clients([np.concatenate([shards[shard] for shard in hand]) for hand in hands])
