"""Texts as tensors, so that they can travel in a message: their UTF-8 bytes, and where each of them ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def pack(sides: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """N examples as two tensors.

    Args:
        sides: one list of N texts, or two lists for pairs.

    Returns:
        ``values`` uint8 [bytes], the texts one after the other, example by example; ``ends`` int64 [N, sides], the
        position in ``values`` at which each text ends.
    """
    texts = [text.encode() for example in zip(*sides, strict=True) for text in example]
    ends = torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)
    values = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)
    return {"values": values, "ends": ends.reshape(-1, len(sides))}


def unpack(packed: Mapping[str, Tensor]) -> list[list[str]]:
    """The inverse of `pack`.

    Raises:
        ValueError: these are not packed texts.
    """
    if packed.keys() != {"values", "ends"}:
        raise ValueError("texts travel as two tensors, `values` and `ends`")
    values, ends = packed["values"], packed["ends"]
    if values.dtype != torch.uint8 or values.ndim != 1 or ends.dtype != torch.int64 or ends.ndim != 2:
        raise ValueError("`values` must be uint8 [bytes], and `ends` int64 [examples, texts]")
    sides, places = ends.shape[1], [0, *ends.flatten().tolist()]
    if sides not in (1, 2) or not len(ends):
        raise ValueError("an example must be one text or two texts, and there must be one at least")
    if places[-1] != len(values) or any(start > end for start, end in pairwise(places)):
        raise ValueError("the texts do not end where `ends` says")
    content = values.numpy().tobytes()
    try:
        texts = [content[start:end].decode() for start, end in pairwise(places)]
    except UnicodeDecodeError as error:
        raise ValueError("the texts are not UTF-8") from error
    return [texts[side::sides] for side in range(sides)]
