"""The wire ledger: one line for every message, with the size and the digest of each tensor in it.

A message that is sent to several clients alike is one line that names all of them. The ledger is written from the
tensors that are sent, so it can be compared with what must never cross.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from fedfm.printable import records
from fedfm.records import jsonl, shapes

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["down", "up", "peer"]
"""`down`: from the server to clients. `up`: from a client to the server. `peer`: from the first client of the line to
the others."""

MessageKind = Literal["message", "download", "edge"]
"""`download`: a whole proxy, which a client gets once before its first round. `edge`: between the server and an
aggregator below it, whose id stands in place of a client's."""

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


class Traffic(TypedDict):
    """Bytes that left the server (``down``) and that left clients (``up``); a message counts once a receiver."""

    down: int
    up: int


class LedgerTotals(Traffic):
    """Bytes of a whole run and of each of its rounds; ``peer`` is the part of ``up`` that went to other clients."""

    peer: int
    by_round: dict[int, Traffic]


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that differ only in the numbers of their layers and travel in the same direction.

    Attributes:
        direction: in which direction.
        name: their common name, with ``*`` for the number of the layer.
        dtype: e.g. ``float32``.
        shape: of one of them.
        tensors: how many different ones there are.
        sent: bytes over the whole run; a message counts once a receiver.
        stands_for: names, with ``*`` for the number of the layer, of the tensors that an encoded tensor stands for;
            empty for a tensor that travels under its own name.
    """

    direction: Direction
    name: str
    dtype: str
    shape: tuple[int, ...]
    tensors: int
    sent: int
    stands_for: tuple[str, ...] = ()


def message_record(
    round: int,  # noqa: A002 - the field's word
    direction: Direction,
    clients: Sequence[str],
    size_bytes: int,
    params: Mapping[str, Tensor],
    *,
    kind: MessageKind = "message",
    work: str = "",
    names: Sequence[str] = (),
) -> jsonl.Record:
    """One line of the ledger.

    Args:
        round: 1-based round.
        direction: in which direction.
        clients: ids of the receivers (down), of the sender (up), or of the sender and then the receivers (peer).
        size_bytes: one message as encoded, header and metadata included.
        params: the tensors in it.
        kind: what it is.
        work: the kind of work that it asks for or answers; empty for a line without one.
        names: the tensors that encoded tensors of ``params`` stand for, with the prefix ``GROUP/`` of their group.
    """
    named = {"names": list(names)} if names else {}
    return {
        "round": round,
        "kind": kind,
        **({"work": work} if work else {}),
        "direction": direction,
        "clients": list(clients),
        "bytes": size_bytes,
        **named,
        "tensors": [_tensor_record(name, params[name]) for name in sorted(params)],
    }


def receivers(message: Mapping[str, Any]) -> int:
    """How often the bytes of a line were sent."""
    clients: list[str] = message["clients"]
    return len(clients) - 1 if message["direction"] == "peer" else len(clients)


def totals(path: Path) -> LedgerTotals:
    """Bytes of all messages of a ledger; zeros where there is no ledger. First downloads are not counted.

    What a client sends to another client counts as ``up``: it leaves a client.

    Raises:
        DataError: a line of the ledger is damaged.
    """
    by_round: dict[int, Traffic] = {}
    peer = 0
    for message in jsonl.records(path, shapes.MESSAGE):
        if message.get("kind") == "download":
            continue
        traffic = by_round.setdefault(message["round"], Traffic(down=0, up=0))
        sent = message["bytes"] * receivers(message)
        traffic["down" if message["direction"] == "down" else "up"] += sent
        peer += sent if message["direction"] == "peer" else 0
    return LedgerTotals(
        down=sum(traffic["down"] for traffic in by_round.values()),
        up=sum(traffic["up"] for traffic in by_round.values()),
        peer=peer,
        by_round=by_round,
    )


def tensor_groups(path: Path) -> list[TensorGroup]:
    """What crossed, in the order of its first message, under names that are safe to show; empty without a ledger.

    Raises:
        DataError: a line of the ledger is damaged.
    """
    names: dict[tuple[Direction, str, str, tuple[int, ...]], set[str]] = {}
    sent: dict[tuple[Direction, str, str, tuple[int, ...]], int] = {}
    stands_for: dict[tuple[Direction, str, str, tuple[int, ...]], dict[str, None]] = {}
    for message in jsonl.records(path, shapes.MESSAGE):
        tensors = records(message["tensors"])
        present = {tensor["name"] for tensor in tensors}
        named = records(message.get("names") or [])
        encoded = [name for name in named if name not in present]
        for tensor in tensors:
            name = tensor["name"]
            key = (message["direction"], LAYER.sub("*", name), tensor["dtype"], tuple(tensor["shape"]))
            names.setdefault(key, set()).add(name)
            sent[key] = sent.get(key, 0) + tensor["bytes"] * receivers(message)
            of_its_group = (LAYER.sub("*", other) for other in encoded if _group(other) == _group(name))
            stands_for.setdefault(key, {}).update(dict.fromkeys(of_its_group if name not in named else ()))
    return [
        TensorGroup(*key, tensors=len(names[key]), sent=sent[key], stands_for=tuple(stands_for[key])) for key in names
    ]


def _group(name: str) -> str:
    """The group of a tensor, from its name on the wire; empty for the tunable."""
    return name.partition("/")[0] if "/" in name else ""


def _tensor_record(name: str, tensor: Tensor) -> jsonl.Record:
    from fedfm.params import tensor_digest  # a ledger is read without torch

    return {
        "name": name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "bytes": tensor.numel() * tensor.element_size(),
        "digest": tensor_digest(tensor),
    }
