"""What stages with few bits a value share: blocks with a scale each, and two 4-bit numbers in a byte."""

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


def packed(numbers: Tensor) -> Tensor:
    """Numbers from 0 to 15, ``[n]``, as uint8 ``[⌈n / 2⌉]``: the first of two is in the low bits."""
    pairs = pad(numbers.to(torch.uint8), (0, len(numbers) % 2)).view(-1, 2)
    return pairs[:, 0] | pairs[:, 1] << 4


def unpacked(content: Tensor, numbers: int) -> Tensor:
    """The inverse of `packed`, as uint8 ``[numbers]``."""
    return torch.stack([content & 15, content >> 4], dim=1).view(-1)[:numbers]
