"""Tensors as bytes in the safetensors format, written with one copy of the values and read with none.

Eight bytes with the header's length, the header (JSON, padded to a multiple of eight), then tensor after tensor.
The library itself copies every tensor that it reads from bytes, for which there is no room where updates are large.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from fedfm.params import tensor_bytes
from fedfm.printable import quoted
from fedfm.spill import Spilled
from fedfm.untrusted import UntrustedError, read_json

_DTYPES = {
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "U32": torch.uint32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By the names and in the order of safetensors."""

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES.values())}
_ALIGNMENT = 8
_METADATA = "__metadata__"

TUNABLE = "tunable"
"""The group of tensors that travel under their own names."""

MOST_HEADER = 2**25
"""Bytes of a header; safetensors takes up to 10**8, of which Python would make gigabytes of objects."""

MOST_TENSORS = 2**16
"""Tensors of a message; the largest open models have about that many with each expert's matrices by themselves."""

MOST_NAME = 2**10
"""Characters of a tensor's name; safetensors has no limit."""

MOST_DIMENSIONS = 8
"""Dimensions of a tensor, as many as any layer's; safetensors has no limit."""

MOST_BYTES = 2**62
"""Bytes of a tensor when its empty dimensions count as 1, so that torch can compute its strides."""

with warnings.catch_warnings():  # torch warns once a process against writing into such a tensor; fedfm does not
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


class _Place(NamedTuple):
    """A tensor's dtype and shape, and where its values are in a message."""

    dtype: torch.dtype
    shape: list[int]
    start: int
    stop: int


def to_bytes(params: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """One message: tensors by dtype, the widest first, then by name, with string metadata in the header."""
    order = _ordered(params)
    return b"".join([_header(order, metadata or {}), *(tensor_bytes(tensor) for _, tensor in order)])


def on_disk(params: Mapping[str, Tensor]) -> Tensors:
    """The same tensors, in an unnamed file: each is read when it is asked for, and nothing stays in memory.

    Raises:
        StorageError: the disk is full.
    """
    order = _ordered(params)
    message = Spilled([_header(order, {})])
    message.append(tensor_bytes(tensor) for _, tensor in order)
    return from_bytes(message)[0]


def stored_bytes(params: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Length of `to_bytes` of the same, which is not made; tensors may be on any device, meta too."""
    order = _ordered(params)
    return len(_header(order, metadata or {})) + sum(tensor.nbytes for _, tensor in order)


class Tensors(Mapping[str, Tensor]):
    """The tensors of a message, by name in sorted order, each read when it is asked for.

    Tensors of bytes share their memory and must not be written to; those of a message on disk are read at each access.
    """

    def __init__(self, message: bytes | Spilled, places: Mapping[str, _Place]) -> None:
        self._message = message
        self._places = places
        self._read: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._read:
            return self._read[name]
        place, message = self._places[name], self._message
        if isinstance(message, Spilled):
            return _tensor(message[place.start : place.stop], 0, place)
        self._read[name] = _tensor(message, place.start, place)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def by_group(self) -> dict[str, Tensors]:
        """Tensors named ``GROUP/NAME`` by group and then by NAME; those without a group are of `TUNABLE`."""
        groups: dict[str, dict[str, _Place]] = {}
        for name, place in self._places.items():
            group, slash, rest = name.partition("/")
            groups.setdefault(group if slash else TUNABLE, {})[rest if slash else name] = place
        return {group: Tensors(self._message, places) for group, places in groups.items()}


def from_bytes(message: bytes | Spilled) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a message and its metadata.

    Raises:
        UntrustedError: it is no such message, or beyond the limits of this module; no tensor is read before that is
            known. Each tensor begins where the one before it ends, the first behind the header, and nothing is left.
        StorageError: it is on disk and cannot be read.
    """
    begin = 8 + int.from_bytes(message[:8], "little")
    if not 8 <= begin <= len(message) or begin > MOST_HEADER:
        raise UntrustedError("it ends before its header does, or that is too long")
    header = read_json(message[8:begin])
    if not isinstance(header, dict):
        raise UntrustedError("its header is no JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UntrustedError("its metadata are not texts")
    if len(header) > MOST_TENSORS:
        raise UntrustedError(f"it has {len(header):,} tensors, more than {MOST_TENSORS:,}")
    places = {name: _place(name, header[name], begin) for name in sorted(header)}
    end = begin
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].stop)):
        size = math.prod(place.shape) * place.dtype.itemsize
        if place.start != end or place.stop - place.start != size:
            raise UntrustedError(f"the values of {quoted(name)} are not where they belong")
        end = place.stop
    if end != len(message):
        raise UntrustedError("it ends before its last tensor does, or behind it")
    return Tensors(message, places), metadata


def _ordered(params: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(params.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))


def _header(order: list[tuple[str, Tensor]], metadata: Mapping[str, str]) -> bytes:
    """The header of tensors in this order, with its length before it."""
    ends = list(accumulate((tensor.nbytes for _, tensor in order), initial=0))
    entries = {
        name: {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        for (name, tensor), start, end in zip(order, ends, ends[1:], strict=False)
    }
    whole = {_METADATA: dict(metadata), **entries} if metadata else entries
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _tensor(values: bytes, start: int, place: _Place) -> Tensor:
    """A tensor whose values begin at a byte."""
    if place.start == place.stop:
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(values, dtype=place.dtype, count=math.prod(place.shape), offset=start).view(place.shape)


def _place(name: str, entry: object, begin: int) -> _Place:
    """Where a tensor is, as a header says it whose values begin at a byte."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, stop], **others} if (
            dtype in _DTYPES
            and not others
            and len(name) <= MOST_NAME
            and len(shape) <= MOST_DIMENSIONS
            and all(type(number) is int and number >= 0 for number in (*shape, start, stop))
            and math.prod(size or 1 for size in shape) * _DTYPES[dtype].itemsize <= MOST_BYTES
        ):
            return _Place(_DTYPES[dtype], shape, begin + start, begin + stop)
    raise UntrustedError(f"what its header says of {quoted(name)} is no tensor")
