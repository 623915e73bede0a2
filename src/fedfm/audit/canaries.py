"""Canaries: random examples, and the places that they take in the clients' data.

Carlini et al., The Secret Sharer, arXiv:1802.08232, §4: a model can be right about a random sequence only if it has
seen it. For a classifier, a canary is a random sequence with a random class. Each canary but the references has a fair
coin that decides whether it is planted (Steinke et al., arXiv:2305.08846, Algorithm 1). All draws derive from the seed,
so that an audit draws again what the run has drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from datasets import Dataset, concatenate_datasets

from fedfm.audit.settings import AuditSettings
from fedfm.data.examples import Examples
from fedfm.errors import RecipeError
from fedfm.randomness import numpy_generator

TEXT = frozenset({"input_ids", "token_type_ids"})
"""Columns of an encoded text."""


@dataclass(frozen=True)
class Vocabulary:
    """Token ids of a tokenizer: those of text, int64 ``[V]``, and the special ones."""

    text: np.ndarray
    special: frozenset[int]

    @classmethod
    def of(cls, size: int, special: Iterable[int]) -> Vocabulary:
        """The ids from 0 to ``size`` − 1."""
        special = frozenset(special)
        return cls(np.array([token for token in range(size) if token not in special], dtype=np.int64), special)


@dataclass(frozen=True)
class Placement:
    """Where canaries are planted.

    Attributes:
        clients: str objects ``[N]``: the client to which each canary was dealt.
        planted: bool ``[N]``: the coins.
        rows: int64 ``[N, K]``: the examples whose places the copies of each canary take, if it is planted.
    """

    clients: np.ndarray
    planted: np.ndarray
    rows: np.ndarray


def place_canaries(settings: AuditSettings, clients: Mapping[str, np.ndarray], seed: int) -> Placement:
    """Deals canaries to clients, in turn, and tosses their coins.

    Args:
        settings: of the recipe.
        clients: client id → indices of its training examples.
        seed: of the run.

    Raises:
        RecipeError: there are fewer clients than the recipe names, or one has too few examples.
    """
    count = settings.clients or len(clients)
    if count > len(clients):
        raise RecipeError(f"there are only {len(clients)} clients, not {count}", where="audit.clients")
    order = numpy_generator(seed, "canary clients").permutation(sorted(clients))[:count].tolist()
    dealt = [order[number % count] for number in range(settings.canaries)]
    free: dict[str, np.ndarray] = {}
    rows = np.empty((settings.canaries, settings.repeats), dtype=np.int64)
    for number, client in enumerate(dealt):
        if client not in free:
            free[client] = numpy_generator(seed, "canary places", client=client).permutation(clients[client])
        taken, free[client] = np.split(free[client], [min(settings.repeats, len(free[client]))])
        if len(taken) < settings.repeats:
            raise RecipeError(
                f"client {client} has {len(clients[client])} examples, too few for its {dealt.count(client)} canaries "
                f"with audit.repeats={settings.repeats}; plant fewer, or in more clients",
                where="audit.canaries",
            )
        rows[number] = taken
    coins = numpy_generator(seed, "canary coins").random(settings.canaries) < 0.5
    return Placement(np.array(dealt, dtype=object), coins, rows)


def draw_canaries(
    settings: AuditSettings, like: Examples, vocabulary: Vocabulary, *, classes: int | None, max_length: int, seed: int
) -> Examples:
    """The canaries, first those with a coin, then the references.

    Args:
        settings: of the recipe.
        like: encoded texts; canaries get their columns, and the special tokens around the first of them.
        vocabulary: tokens to draw from.
        classes: number of classes; None for tasks without.
        max_length: tokens of an example at most, special ones included.
        seed: of the run.

    Raises:
        RecipeError: examples are more than a text and a class.
    """
    if more := sorted(like.table.features.keys() - TEXT):
        raise RecipeError(
            f"a canary is a text with a class, or a text alone, and examples of this task also have {', '.join(more)}; "
            "set 0",
            where="audit.canaries",
        )
    generator = numpy_generator(seed, "canaries")
    count = settings.canaries + settings.references
    before, after = _frame(like.table[0]["input_ids"], vocabulary.special)
    length = max(1, min(settings.length, max_length - len(before) - len(after)))
    drawn = generator.choice(vocabulary.text, size=(count, length))
    ids = [[*before, *row, *after] for row in drawn.tolist()]
    columns = {name: ids if name == "input_ids" else [[0] * len(row) for row in ids] for name in like.table.features}
    labels = None if classes is None else generator.integers(classes, size=count)
    table = Dataset.from_dict(columns, features=like.table.features)
    return Examples(table, np.full(count, len(ids[0]), dtype=np.int32), labels)


def with_canaries(examples: Examples, canaries: Examples, placement: Placement) -> Examples:
    """Training examples with the planted canaries in their places."""
    chosen = np.flatnonzero(placement.planted)
    rows, copies = placement.rows[chosen].ravel(), np.repeat(chosen, placement.rows.shape[1])
    order = np.arange(len(examples))
    order[rows] = len(examples) + copies
    lengths = examples.lengths.copy()
    lengths[rows] = canaries.lengths[copies]
    labels = examples.labels
    if labels is not None and canaries.labels is not None:
        labels = labels.copy()
        labels[rows] = canaries.labels[copies]
    table = concatenate_datasets([examples.table, canaries.table]).select(order)
    return replace(examples, table=table, lengths=lengths, labels=labels)


def _frame(ids: Sequence[int], special: frozenset[int]) -> tuple[list[int], list[int]]:
    """The special tokens at the beginning and at the end of an example."""
    before = list(takewhile(lambda token: token in special, ids))
    after = list(takewhile(lambda token: token in special, reversed(ids[len(before) :])))
    return before, after[::-1]
