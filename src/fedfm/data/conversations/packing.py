"""Puts several conversations of a client into one sequence; their positions say where each begins."""

from __future__ import annotations

import hashlib

import numpy as np
from datasets import Features, List, Value

from fedfm.data.cache import cache_key
from fedfm.data.encoding import Encode, encoded
from fedfm.data.examples import Examples
from fedfm.data.tokens import token_counts

POSITIONS = "position_ids"
"""Column: the position of each token in its conversation."""

_BINS_PER_BATCH = 200


def bins(lengths: np.ndarray, clients: np.ndarray | None, room: int) -> list[list[int]]:
    """Which examples share a sequence: consecutive ones of a client, as many as fit.

    Args:
        lengths: tokens of each example, [N], each at most ``room``.
        clients: the client of each example, or None.
        room: tokens of a sequence.
    """
    found: list[list[int]] = []
    last: dict[str, tuple[int, int]] = {}  # client → its last sequence, and the room left in it
    for number, length in enumerate(lengths.tolist()):
        client = "" if clients is None else clients[number]
        place, left = last.get(client, (-1, 0))
        if length > left:
            place, left = len(found), room
            found.append([])
        found[place].append(number)
        last[client] = place, left - length
    return found


def packed(examples: Examples, key: str, room: int) -> Examples:
    """Examples with several of a client in one sequence, with `POSITIONS`.

    Args:
        examples: encoded conversations.
        key: of their cache entry.
        room: tokens of a sequence.
    """
    shared = bins(examples.lengths, examples.clients, room)
    layout = hashlib.sha256(repr(shared).encode()).hexdigest()

    def prepare() -> Encode:
        def join(numbers: list[int]) -> dict[str, list[list[int]]]:
            columns: dict[str, list[list[int]]] = {name: [] for name in (*examples.table.column_names, POSITIONS)}
            for number in numbers:
                rows = examples.table[shared[number]]
                for name, values in rows.items():
                    columns[name].append([value for row in values for value in row])
                columns[POSITIONS].append([place for row in rows["input_ids"] for place in range(len(row))])
            return columns

        return join

    features = Features({**examples.table.features, POSITIONS: List(Value("int32"))})
    whole = cache_key(kind="packed", key=key, layout=layout, version=1)
    table = encoded(whole, len(shared), prepare, features, batch_size=_BINS_PER_BATCH)
    first = np.array([numbers[0] for numbers in shared])
    count = f"{len(examples):,} conversations are packed into {len(shared):,} examples (data.pack)"
    return Examples(
        table=table,
        lengths=token_counts(table),
        clients=None if examples.clients is None else examples.clients[first],
        cut=None if examples.cut is None else np.array([examples.cut[numbers].sum() for numbers in shared], np.int32),
        notes=(*examples.notes, count),
    )
