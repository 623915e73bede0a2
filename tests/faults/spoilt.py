"""Updates that a server must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from fedfm.params import Params
from fedfm.runtimes.envelopes import Envelope, Replies
from fedfm.updates import decode_update
from fedfm.wire import TUNABLE

Change = Callable[[bytes], bytes]


def _unsound(change: Callable[[Params], Params]) -> Change:
    def changed(blob: bytes) -> bytes:
        update = decode_update(blob)
        groups = {**update.groups, TUNABLE: change(dict(update.groups[TUNABLE]))}
        return replace(update, groups=groups).encode()

    return changed


def _with_tensor(blob: bytes, shape: list[int]) -> bytes:
    """A message with an empty tensor more."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    header["more"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + blob[8 + length :]


SPOILT: dict[str, Change] = {
    "cut off": lambda blob: blob[: len(blob) // 2],
    "strides that overflow": lambda blob: _with_tensor(blob, [0, 2**62, 2**62]),
    "not a number": _unsound(lambda params: {name: tensor * float("nan") for name, tensor in params.items()}),
    "a tensor less": _unsound(lambda params: dict(list(params.items())[1:])),
    "of another shape": _unsound(lambda params: {name: tensor.flatten()[:1] for name, tensor in params.items()}),
    "of another round": lambda blob: replace(decode_update(blob), round=0).encode(),
    "of another base": lambda blob: replace(decode_update(blob), base="0" * 64).encode(),
    "too large": lambda blob: bytes(40_000_000),
}
"""What is wrong with an update → how it gets that way."""


def spoilt(parts: Iterable[Envelope], change: Change) -> Iterator[Envelope]:
    """What a site answers, each update of it changed."""
    for part in parts:
        yield replace(part, blobs=tuple(map(change, part.blobs))) if isinstance(part.head, Replies) else part
