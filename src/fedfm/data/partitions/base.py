"""What a partition is: which example belongs to which client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedfm.errors import RecipeError
from fedfm.settings import Settings


class Partitioner(Settings):
    """Base of the kinds of partition; a kind says how in `split`."""

    kind: str
    """How examples are split among clients."""

    def split(
        self,
        count: int,
        clients: int,
        generator: np.random.Generator,
        *,
        labels: np.ndarray | None = None,
        column: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Client id to its examples, sorted int64 indices; each example belongs to one client, each client has some.

        Args:
            count: N, the examples to split.
            clients: how many clients; `column` takes those that there are.
            generator: keyed to the run.
            labels: int64 [N] class of each example, or None where there are none.
            column: str objects [N] naming each example's client, or None without a natural federation.

        Raises:
            RecipeError: when the examples lack what the kind needs, or are too few for the clients.
        """
        raise NotImplementedError

    def _labels(self, labels: np.ndarray | None) -> np.ndarray:
        if labels is None:
            raise RecipeError(
                f"`{self.kind}` splits by label, and these examples have none; take iid, quantity or column",
                where="federation.partition.kind",
            )
        return labels


def synthetic_clients(hands: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Numbered clients with the given examples; ids are zero-padded: their order as text is their order as numbers."""
    width = len(str(len(hands) - 1))
    return {f"{client:0{width}d}": np.sort(hand).astype(np.int64) for client, hand in enumerate(hands)}


def require_examples(count: int, clients: int, each: int = 1) -> None:
    """Refuses a split in which some client would go without.

    Raises:
        RecipeError: when ``count`` examples do not give every client ``each``.
    """
    if count < clients * each:
        without = clients - count // each
        raise RecipeError(
            f"{count} training examples are too few for {clients} clients: {without} clients would get no example; "
            f"ask for at most {count // each}",
            where="federation.clients",
        )
