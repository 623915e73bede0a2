"""Heterogeneous ranks: client c trains the leading r_c rows of each `lora_A` and columns of each `lora_B`.

Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models, arXiv:2401.06432, §3. The
server holds factors of rank `tune.r`, A ``[r, in]`` and B ``[out, r]``. A client gets their leading part; beyond it
both factors are zero at the client and do not change, which is the same as an adapter of rank r_c. The scale α/r is the
server's for every client, so that a factor means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fedfm.client_patterns import first_match
from fedfm.errors import RecipeError
from fedfm.randomness import numpy_generator
from fedfm.spec import Spec, TensorSpec
from fedfm.views.base import Index, Slices, View

RANK_FIRST = frozenset({"lora_A", "lora_embedding_A"})
"""Factors whose rows are ranks."""

RANK_SECOND = frozenset({"lora_B", "lora_embedding_B"})
"""Factors whose columns are ranks."""


@dataclass(frozen=True)
class Ranks(View):
    """Which rank each client has.

    Attributes:
        ranks: dealt to clients at random, each alike; or pattern of client ids → rank, the first that matches counts
            and a client that matches none has the whole rank.
        seed: the run's seed.
    """

    ranks: tuple[int, ...] | Mapping[str, int]
    seed: int = 0

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The recipe's `federation.ranks`.

        Raises:
            RecipeError: the tunable has no rank, or a smaller one.
        """
        ranks = recipe.federation.ranks
        if not ranks:
            return None
        most = getattr(recipe.tune, "r", None)
        if most is None:
            raise RecipeError(
                f"ranks need low-rank factors, which `tune.kind: {recipe.tune.kind}` does not have; use lora or dora",
                where="federation.ranks",
            )
        found = ranks.values() if isinstance(ranks, Mapping) else ranks
        if max(found) > most:
            raise RecipeError(f"rank {max(found)} exceeds `tune.r: {most}`", where="federation.ranks")
        return cls(dict(ranks) if isinstance(ranks, Mapping) else tuple(ranks), recipe.seed)

    def rank(self, client: str) -> int | None:
        """A client's rank; None for the whole one."""
        if isinstance(self.ranks, Mapping):
            return first_match(self.ranks, client, None)
        return int(numpy_generator(self.seed, "rank", client=client).choice(self.ranks))

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """Leading ranks of factors; all of other tensors."""
        rank = self.rank(client)
        return {name: () if rank is None else _leading(name, tensor, rank) for name, tensor in spec.items()}


def _leading(name: str, tensor: TensorSpec, rank: int) -> tuple[Index, ...]:
    dimension = rank_dimension(name)
    if dimension is None or rank >= tensor.shape[dimension]:
        return ()
    return (*[slice(None)] * dimension, slice(rank))


def rank_dimension(name: str) -> int | None:
    """The dimension of a tensor that counts ranks: 0 of A, 1 of B, None of others."""
    parts = set(name.split("."))
    return 0 if parts & RANK_FIRST else 1 if parts & RANK_SECOND else None
