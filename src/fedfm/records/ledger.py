"""The wire ledger: one line for every message between server and clients, with each tensor's size and digest.

A message that goes to many clients alike is listed once with all of them. The ledger is written from what is about to
be sent, so it can be held against what the design promises never crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from torch import Tensor

from fedfm.params import tensor_digest
from fedfm.records import jsonl

Direction = Literal["down", "up"]
"""`down` is from the server to clients, `up` from a client to the server."""


class Traffic(TypedDict):
    """Bytes sent each way; a message to K clients counts K times."""

    down: int
    up: int


class Totals(Traffic):
    """Bytes of a whole run, and of each of its rounds."""

    by_round: dict[int, Traffic]


def message_record(
    round: int,  # noqa: A002 - the field's word
    direction: Direction,
    clients: Sequence[str],
    size_bytes: int,
    params: Mapping[str, Tensor],
) -> jsonl.Record:
    """One line of the ledger.

    Args:
        round: 1-based round.
        direction: which way.
        clients: ids of those who get this same message (down), or the one that sends it (up).
        size_bytes: one message as encoded, header and metadata included.
        params: the tensors in it.
    """
    return {
        "round": round,
        "direction": direction,
        "clients": list(clients),
        "bytes": size_bytes,
        "tensors": [_tensor_record(name, params[name]) for name in sorted(params)],
    }


def totals(path: Path) -> Totals:
    """Bytes over all messages of a ledger; zeros when there is none.

    Raises:
        DataError: a line of the ledger is damaged.
    """
    by_round: dict[int, Traffic] = {}
    for message in jsonl.records(path):
        traffic = by_round.setdefault(message["round"], Traffic(down=0, up=0))
        direction: Direction = message["direction"]
        traffic[direction] += message["bytes"] * len(message["clients"])
    return Totals(
        down=sum(traffic["down"] for traffic in by_round.values()),
        up=sum(traffic["up"] for traffic in by_round.values()),
        by_round=by_round,
    )


def _tensor_record(name: str, tensor: Tensor) -> jsonl.Record:
    return {
        "name": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "bytes": tensor.numel() * tensor.element_size(),
        "digest": tensor_digest(tensor),
    }
