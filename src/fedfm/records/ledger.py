"""The wire ledger: one line for every message between server and clients, with each tensor's size and digest.

A message that goes to many clients alike is listed once with all of them. The ledger is written from what is about to
be sent, so it can be held against what the design promises never crosses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from fedfm.printable import records
from fedfm.records import jsonl, shapes

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["down", "up"]
"""`down` is from the server to clients, `up` from a client to the server."""

Kind = Literal["message", "download"]
"""`download`: a whole proxy, which a client gets once before its first round."""

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class Traffic(TypedDict):
    """Bytes sent each way; a message to K clients counts K times."""

    down: int
    up: int


class Totals(Traffic):
    """Bytes of a whole run, and of each of its rounds."""

    by_round: dict[int, Traffic]


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that differ only in the numbers of their layers and travel the same way.

    Attributes:
        direction: which way.
        name: their common name, ``*`` for the number of the layer.
        dtype: e.g. ``float32``.
        shape: of one of them.
        tensors: how many there are in the tunable.
        sent: bytes over the whole run; a message to K clients counts K times.
    """

    direction: Direction
    name: str
    dtype: str
    shape: tuple[int, ...]
    tensors: int
    sent: int


def message_record(
    round: int,  # noqa: A002 - the field's word
    direction: Direction,
    clients: Sequence[str],
    size_bytes: int,
    params: Mapping[str, Tensor],
    *,
    kind: Kind = "message",
) -> jsonl.Record:
    """One line of the ledger.

    Args:
        round: 1-based round.
        direction: which way.
        clients: ids of those who get this same message (down), or the one that sends it (up).
        size_bytes: one message as encoded, header and metadata included.
        params: the tensors in it.
        kind: what it is.
    """
    return {
        "round": round,
        "kind": kind,
        "direction": direction,
        "clients": list(clients),
        "bytes": size_bytes,
        "tensors": [_tensor_record(name, params[name]) for name in sorted(params)],
    }


def totals(path: Path) -> Totals:
    """Bytes over all messages of a ledger; zeros when there is none. First downloads are not counted.

    Raises:
        DataError: a line of the ledger is damaged.
    """
    by_round: dict[int, Traffic] = {}
    for message in jsonl.records(path, shapes.MESSAGE):
        if message.get("kind") == "download":
            continue
        traffic = by_round.setdefault(message["round"], Traffic(down=0, up=0))
        direction: Direction = message["direction"]
        traffic[direction] += message["bytes"] * len(message["clients"])
    return Totals(
        down=sum(traffic["down"] for traffic in by_round.values()),
        up=sum(traffic["up"] for traffic in by_round.values()),
        by_round=by_round,
    )


def tensor_groups(path: Path) -> list[TensorGroup]:
    """What crossed, in the order it first did, by names as people may see them; empty when there is no ledger.

    Raises:
        DataError: a line of the ledger is damaged.
    """
    names: dict[tuple[Direction, str, str, tuple[int, ...]], set[str]] = {}
    sent: dict[tuple[Direction, str, str, tuple[int, ...]], int] = {}
    for message in jsonl.records(path, shapes.MESSAGE):
        for tensor in records(message["tensors"]):
            pattern = LAYER.sub("*", tensor["name"])
            key = (message["direction"], pattern, tensor["dtype"], tuple(tensor["shape"]))
            names.setdefault(key, set()).add(tensor["name"])
            sent[key] = sent.get(key, 0) + tensor["bytes"] * len(message["clients"])
    return [TensorGroup(*key, tensors=len(names[key]), sent=sent[key]) for key in names]


def _tensor_record(name: str, tensor: Tensor) -> jsonl.Record:
    from fedfm.params import tensor_digest  # a ledger is read without torch

    return {
        "name": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "bytes": tensor.numel() * tensor.element_size(),
        "digest": tensor_digest(tensor),
    }
