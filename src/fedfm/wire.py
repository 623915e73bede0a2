"""Tensors as bytes: the safetensors format, written with one copy of the values and read with none.

Eight bytes with the header's length, the header (JSON, padded to a multiple of eight), and the values, tensor by tensor.
safetensors' own functions make as many copies as there are tensors, which large updates have no room for.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from fedfm.params import Params, tensor_bytes

_DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By the names and in the order of safetensors; others are neither trained nor sent."""

_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES.values())}
_ALIGNMENT = 8
_METADATA = "__metadata__"

with warnings.catch_warnings():  # torch says once a process that nobody may write into such a tensor, and nobody does
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def to_bytes(params: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """One message: tensors by dtype, the widest first, then by name, with string metadata in the header."""
    order = _ordered(params)
    return b"".join([_header(order, metadata or {}), *(tensor_bytes(tensor) for _, tensor in order)])


def stored_bytes(params: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Length of `to_bytes` of the same, which is not made; tensors may be on any device, meta too."""
    order = _ordered(params)
    return len(_header(order, metadata or {})) + sum(tensor.nbytes for _, tensor in order)


def from_bytes(message: bytes) -> tuple[Params, dict[str, str]]:
    """The tensors of a message, in its own memory, and its metadata; nobody may write into the tensors.

    Raises:
        ValueError: it is no such message: each tensor begins where the one before it ends, the first behind the header,
            and nothing is left over.
    """
    length = int.from_bytes(message[:8], "little")
    if len(message) < 8 or length > len(message) - 8:
        raise ValueError("it ends before its header does")
    header = json.loads(message[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts")
    places = {name: _place(name, entry) for name, entry in header.items()}
    tensors, end = Params(), 0
    for name, (dtype, shape, start, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        count = math.prod(shape)
        if start != end or stop - start != count * dtype.itemsize or 8 + length + stop > len(message):
            raise ValueError(f"the values of {name!r} are not where they belong")
        values = torch.frombuffer(message, dtype=dtype, count=count, offset=8 + length + start) if count else None
        tensors[name] = torch.empty(shape, dtype=dtype) if values is None else values.view(shape)
        end = stop
    if 8 + length + end != len(message):
        raise ValueError("it goes on behind its last tensor")
    return {name: tensors[name] for name in sorted(tensors)}, metadata


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


def _place(name: str, entry: object) -> tuple[torch.dtype, list[int], int, int]:
    """Dtype, shape, first byte and end of a tensor, as a header has them."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, stop]} if (
            dtype in _DTYPES and all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop))
        ):
            return _DTYPES[dtype], shape, start, stop
    raise ValueError(f"what its header says of {name!r} is no tensor")
