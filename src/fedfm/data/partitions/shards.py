"""Clients with a few labels each: examples sorted by label, cut into shards, the shards dealt."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.capabilities import LABELS
from fedfm.data.partitions.base import Partitioner, require_examples, synthetic_clients


class Shards(Partitioner):
    """McMahan et al., arXiv:1602.05629, §3: with 2 shards a client, most clients see two labels only."""

    needs = {LABELS: "it splits by label; use iid, quantity or column"}

    kind: Literal["shards"] = "shards"
    """Every client gets a few runs of examples sorted by label."""
    shards_per_client: Annotated[int, Field(ge=1)] = 2
    """Shards a client; about as many labels."""

    def split(
        self,
        count: int,
        clients: int,
        generator: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        column: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Examples of one label are shuffled before they are cut; shard sizes differ by one at most."""
        classes = self._labels(labels)
        require_examples(count, clients, self.shards_per_client)
        shuffled = generator.permutation(count)
        by_label = shuffled[np.argsort(classes[shuffled], kind="stable")]
        shards = np.array_split(by_label, clients * self.shards_per_client)
        hands = generator.permutation(len(shards)).reshape(clients, self.shards_per_client)
        return synthetic_clients([np.concatenate([shards[shard] for shard in hand]) for hand in hands])
