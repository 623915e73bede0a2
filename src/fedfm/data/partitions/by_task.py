"""Clients with some of several tasks: the examples of each task are split among the clients that have it."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedfm.capabilities import SEVERAL_TASKS
from fedfm.data.partitions.base import Partitioner, Pool, synthetic_clients
from fedfm.data.partitions.iid import Iid
from fedfm.data.partitions.quantity import Quantity
from fedfm.errors import RecipeError


class ByTask(Partitioner):
    """Client c has the tasks c, c + 1, …, c + `per_client` − 1 modulo their number, in the order of the recipe."""

    needs = {SEVERAL_TASKS: "it gives each client some of them"}

    kind: Literal["tasks"] = "tasks"
    """Every client has one or a few of several tasks."""
    per_client: Annotated[int, Field(ge=1)] = 1
    """Tasks of each client."""
    within: Annotated[Iid | Quantity, Field(discriminator="kind")] = Iid()
    """How the examples of a task are split among its clients."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """The tasks one after the other, each by `within`.

        Raises:
            RecipeError: the examples are of one task, a client would have more tasks than there are, or a task has no
                client.
        """
        if pool.tasks is None:
            raise RecipeError("these examples are of one task; use iid", where="federation.partition.kind")
        tasks = np.unique(pool.tasks)
        if self.per_client > len(tasks):
            raise RecipeError(
                f"{self.per_client} tasks a client are more than the {len(tasks)} there are",
                where="federation.partition.per_client",
            )
        if clients + self.per_client <= len(tasks):
            raise RecipeError(
                f"{len(tasks)} tasks need at least {len(tasks) + 1 - self.per_client} clients with "
                f"{self.per_client} each (federation.partition.per_client)",
                where="federation.clients",
            )
        hands: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for number, task in enumerate(tasks):
            own = np.flatnonzero(pool.tasks == task)
            having = [client for client in range(clients) if (number - client) % len(tasks) < self.per_client]
            shares = self.within.split(Pool(len(own)), len(having), generator)
            for client, share in zip(having, shares.values(), strict=True):
                hands[client].append(own[share])
        return synthetic_clients([np.concatenate(hand) for hand in hands])
