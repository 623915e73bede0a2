"""Public images and captions as tensors, so that they can travel in a message, each kind without the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

PIXELS, IDS, ENDS = "pixels", "ids", "ends"
"""Names of the tensors: those of images, and those of texts."""


def pack_images(pixels: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """``pixels`` uint8 [N, C, H, W] of N images at the model's size."""
    return {PIXELS: torch.from_numpy(np.stack(pixels).astype(np.uint8))}


def pack_tokens(texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """``ids`` int32 [tokens], of one text after the other, and ``ends`` int64 [N], where each of them ends."""
    ids = torch.tensor([token for text in texts for token in text], dtype=torch.int32)
    return {IDS: ids, ENDS: torch.tensor([len(text) for text in texts], dtype=torch.int64).cumsum(0)}


def unpack_images(packed: Mapping[str, Tensor]) -> Tensor | None:
    """uint8 [N, C, H, W]; None where there are no images.

    Raises:
        ValueError: these are not packed images.
    """
    pixels = packed.get(PIXELS)
    if pixels is not None and (pixels.dtype != torch.uint8 or pixels.ndim != 4 or not len(pixels)):
        raise ValueError(f"`{PIXELS}` must be uint8 [images, channels, height, width]")
    return pixels


def unpack_tokens(packed: Mapping[str, Tensor]) -> list[list[int]] | None:
    """The inverse of `pack_tokens`; None where there are no texts.

    Raises:
        ValueError: these are not packed texts.
    """
    ids, ends = packed.get(IDS), packed.get(ENDS)
    if ids is None and ends is None:
        return None
    if ids is None or ends is None:
        raise ValueError(f"tokens travel as two tensors, `{IDS}` and `{ENDS}`")
    if ids.dtype != torch.int32 or ids.ndim != 1 or ends.dtype != torch.int64 or ends.ndim != 1:
        raise ValueError(f"`{IDS}` must be int32 [tokens], and `{ENDS}` int64 [texts]")
    places = [0, *ends.tolist()]
    if places[-1] != len(ids) or any(start >= end for start, end in pairwise(places)) or len(places) == 1:
        raise ValueError(f"the texts do not end where `{ENDS}` says")
    values = ids.tolist()
    return [values[start:end] for start, end in pairwise(places)]
