"""What stages with few bits a value share: blocks with a scale each, and several numbers in a byte."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedfm.params import is_finite


def in_blocks(values: Tensor, block: int) -> Tensor:
    """Values ``[n]`` as float32 ``[⌈n / block⌉, block]``, with zeros at the end."""
    return pad(values.float(), (0, -len(values) % block)).view(-1, block)


def largest(blocks: Tensor, levels: int = 1) -> Tensor:
    """Max|x| / levels of each block ``[blocks, block]``, as bfloat16 rounded up; infinite where x is not finite."""
    found = blocks.abs().amax(1).nan_to_num(nan=torch.inf, posinf=torch.inf) / levels
    return ((found.view(torch.int32) + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)


def sound_scales(scales: Tensor) -> Tensor:
    """Scales as float32.

    Raises:
        ValueError: one is negative or not finite.
    """
    scales = scales.float()
    if not is_finite(scales) or (scales < 0).any():
        raise ValueError("a scale of the quantised values is negative or not finite")
    return scales


def packed(numbers: Tensor, bits: int = 4) -> Tensor:
    """Numbers below 2^bits, of 4 or 2 bits, ``[n]``, as uint8 ``[⌈n·bits / 8⌉]``: the first is in the lowest bits."""
    each = 8 // bits
    numbers = numbers.to(torch.uint8).view(-1)
    groups = pad(numbers, (0, -len(numbers) % each)).view(-1, each)
    return (groups << _shifts(bits)).sum(dim=1, dtype=torch.uint8)


def unpacked(content: Tensor, numbers: int, bits: int = 4) -> Tensor:
    """The inverse of `packed`, as uint8 ``[numbers]``."""
    shifted = torch.bitwise_right_shift(content[:, None], _shifts(bits))
    return torch.bitwise_and(shifted, 2**bits - 1).view(-1)[:numbers]


def _shifts(bits: int) -> Tensor:
    """Where the numbers of a byte begin in it."""
    return torch.arange(0, 8, bits, dtype=torch.uint8)
