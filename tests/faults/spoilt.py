"""Updates that nobody should take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from fedfm.params import Params
from fedfm.runtimes.parcels import Answers, Parcel
from fedfm.updates import decode_update, encode_update

Change = Callable[[bytes], bytes]


def _unsound(change: Callable[[Params], Params]) -> Change:
    def changed(blob: bytes) -> bytes:
        update = decode_update(blob)
        return encode_update(replace(update, params=change(dict(update.params))))

    return changed


SPOILT: dict[str, Change] = {
    "cut off": lambda blob: blob[: len(blob) // 2],
    "noise": lambda blob: bytes(reversed(blob)),
    "not a number": _unsound(lambda params: {name: tensor * float("nan") for name, tensor in params.items()}),
    "a tensor less": _unsound(lambda params: dict(list(params.items())[1:])),
    "of another shape": _unsound(lambda params: {name: tensor.flatten()[:1] for name, tensor in params.items()}),
    "of another round": lambda blob: encode_update(replace(decode_update(blob), round=0)),
    "of another base": lambda blob: encode_update(replace(decode_update(blob), base="0" * 64)),
    "too large": lambda blob: bytes(40_000_000),
}
"""What is wrong with an update → how it gets that way."""


def spoilt(parts: Iterable[Parcel], change: Change) -> Iterator[Parcel]:
    """What a site answers, each update of it changed."""
    for part in parts:
        yield replace(part, blobs=tuple(map(change, part.blobs))) if isinstance(part.head, Answers) else part
