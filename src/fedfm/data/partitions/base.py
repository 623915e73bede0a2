"""The interface of a partition, which decides which example belongs to which client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedfm.errors import RecipeError
from fedfm.settings import Settings


@dataclass(frozen=True, eq=False)
class Pool:
    """The examples that a partition splits.

    Attributes:
        count: N, the number of examples.
        labels: int64 [N], the class of each example; None for examples without classes.
        column: str objects [N], the name of each example's client; None without a natural federation.
        tasks: int64 [N], the number of each example's task; None where there is only one.
    """

    count: int
    labels: np.ndarray | None = None
    column: np.ndarray | None = None
    tasks: np.ndarray | None = None


class Partitioner(Settings):
    """Base class of the partitions; each kind defines `split`."""

    kind: str
    """How examples are split among clients."""

    def split(self, pool: Pool, clients: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Client id → sorted int64 indices; each example belongs to one client, and each client has at least one.

        Args:
            pool: the examples to split.
            clients: the number of clients; `column` ignores it.
            generator: keyed to the run.

        Raises:
            RecipeError: the examples lack what the kind needs, or there are too few of them.
        """
        raise NotImplementedError

    def _labels(self, pool: Pool) -> np.ndarray:
        if pool.labels is None:
            raise RecipeError(
                f"`{self.kind}` splits by label, but these examples have no labels; use iid, quantity or column",
                where="federation.partition.kind",
            )
        return pool.labels


def client_ids(clients: int) -> list[str]:
    """Numbers as ids, zero-padded, so that their order as text is their order as numbers."""
    width = len(str(clients - 1))
    return [f"{client:0{width}d}" for client in range(clients)]


def synthetic_clients(hands: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Names clients by number, as `client_ids`."""
    return {client: np.sort(hand).astype(np.int64) for client, hand in zip(client_ids(len(hands)), hands, strict=True)}


def require_examples(count: int, clients: int, each: int = 1) -> None:
    """Refuses a split in which a client would get no example.

    Raises:
        RecipeError: ``count`` examples are fewer than ``each`` for every client.
    """
    if count < clients * each:
        without = clients - count // each
        raise RecipeError(
            f"{count} training examples are too few for {clients} clients: {without} clients would get no example; "
            f"set at most {count // each}",
            where="federation.clients",
        )
