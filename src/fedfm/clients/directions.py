"""Random directions of zeroth-order methods, which every device makes from a key, and walks along them.

A direction z has one sign, +1 or −1, for each coordinate of the tunable (Rademacher: mean 0, E zzᵀ = I, as the normal
distribution that the papers use; Spall, 1992). Its signs are the bits of a counter-based stream
(`fedfm.randomness.stream_bytes`). c·z is then exact, and a walk only adds and subtracts, so that every machine gets the
same bits: no fused multiplication, thread or library can round differently.

A direction never lies in memory as a whole: signs are made for `PIECE` coordinates at a time, or for one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedfm.randomness import STREAM_BLOCK, derive_seed, stream_bytes

Direction = tuple[int, int]
"""The key of a direction: the base of a family of directions, and its number among them."""

PIECE = 2**20
"""Coordinates of a piece of a walk; a tensor with more is a piece of its own."""

_AT_ONCE = 2**13
"""Bytes of signs that are turned into numbers at once."""

_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") * 2.0 - 1.0
"""Byte → the eight signs of its bits, from the lowest: float64 ``[256, 8]``."""


@dataclass(frozen=True)
class Leg:
    """A part of a walk, after which the values are rounded to float32.

    Attributes:
        base: of the directions.
        lengths: float32 [n]: how far to go along directions 0 to n − 1, one after the other.
    """

    base: int
    lengths: Tensor


def direction_base(seed: int, *, round: int = 0) -> int:  # noqa: A002 - the field's word
    """The base of a run's directions, or of those of one round."""
    return derive_seed(seed, "directions", round=round)


def walk(start: Mapping[str, Tensor], legs: Sequence[Leg]) -> Iterator[tuple[str, Tensor]]:
    """w − Σ_i c_i·z_i, leg by leg, float32 on the CPU: each tensor with its name, in the order of the names.

    The sum of a leg is exact to float64 and in the order of its directions.

    Args:
        start: w; each tensor is read once.
        legs: at least one.
    """
    piece: dict[str, Tensor] = {}
    first = length = 0
    for name in sorted(start):
        tensor = start[name].to("cpu", torch.float32)
        if piece and length + _padded(tensor) > PIECE:
            yield from _walked(piece, first, legs)
            piece, first, length = {}, first + length, 0
        piece[name] = tensor
        length += _padded(tensor)
    yield from _walked(piece, first, legs)


def _walked(piece: Mapping[str, Tensor], first: int, legs: Sequence[Leg]) -> Iterator[tuple[str, Tensor]]:
    """The walk of some tensors that follow each other, the first of which begins at coordinate ``first``."""
    values = dict(piece)
    total = np.empty(sum(map(_padded, values.values())))
    for leg in legs:
        total.fill(0.0)
        for number, length in enumerate(leg.lengths.tolist()):
            if length:
                _add(total, (leg.base, number), first, length)
        place = 0
        for name, tensor in values.items():
            moved = torch.from_numpy(total[place : place + tensor.numel()]).view(tensor.shape)
            values[name] = (tensor.double() - moved).float()
            place += _padded(tensor)
    yield from values.items()


@torch.no_grad()
def shift(parameters: Mapping[str, nn.Parameter], direction: Direction, length: float) -> None:
    """W ← w + length·z, in place, tensor by tensor.

    Args:
        parameters: all of the tunable, in any order.
        direction: the key of z.
        length: rounded to float32 first.
    """
    first = 0
    for name in sorted(parameters):
        parameter = parameters[name]
        signs = _signs(direction, first, parameter.numel(), np.float32(length))
        parameter.add_(torch.from_numpy(signs).view(parameter.shape).to(parameter.device, parameter.dtype))
        first += _padded(parameter)


def _signs(direction: Direction, first: int, count: int, length: np.float32) -> np.ndarray:
    """length·z at ``count`` coordinates, float32."""
    rows = length * _SIGNS.astype(np.float32)
    bits = stream_bytes(direction, first // 8, -(-count // 8))
    signs: np.ndarray = rows[bits].reshape(-1)[:count]
    return signs


def _add(total: np.ndarray, direction: Direction, first: int, length: float) -> None:
    """Total += length·z at the coordinates from ``first``; as many values as ``total`` has, a multiple of 256."""
    rows, into = length * _SIGNS, total.reshape(-1, 8)
    bits = stream_bytes(direction, first // 8, len(into))
    terms = np.empty((min(_AT_ONCE, len(into)), 8))
    for start in range(0, len(into), _AT_ONCE):
        part = bits[start : start + _AT_ONCE]
        np.take(rows, part, axis=0, out=terms[: len(part)], mode="clip")
        into[start : start + len(part)] += terms[: len(part)]


def _padded(tensor: Tensor) -> int:
    """Coordinates that a tensor takes in a direction: whole blocks of its stream."""
    whole = STREAM_BLOCK * 8
    return -(-tensor.numel() // whole) * whole
