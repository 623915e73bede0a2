"""Random generators with keys: each derives from (seed, purpose, round, client), not from the order of calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

STREAM_BLOCK = 32
"""Bytes of one block of a stream of `stream_bytes`."""


def derive_seed(seed: int, purpose: str, *, round: int = 0, client: str = "") -> int:  # noqa: A002 - the field's word
    """Derives a 63-bit seed from the run's seed and the key of one random choice.

    Args:
        seed: the recipe's ``seed``.
        purpose: what is drawn, e.g. ``cohort`` or ``batches``; different purposes are independent.
        round: 1-based round; 0 for choices that are made once per run.
        client: client id; empty for choices of the server.
    """
    key = json.dumps([seed, purpose, round, client], ensure_ascii=False).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def numpy_generator(seed: int, purpose: str, *, round: int = 0, client: str = "") -> np.random.Generator:  # noqa: A002
    """A NumPy generator for one keyed choice; arguments as in `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, purpose, round=round, client=client))


def stream_bytes(key: tuple[int, int], start: int, count: int) -> np.ndarray:
    """Bytes ``start`` to ``start + count`` of the endless stream of a key, uint8; any part is there without the rest.

    The stream is that of the counter-based generator Philox 4x64 (Salmon et al., 2011): integer arithmetic alone, so
    every machine gets the same bytes, with any number of threads.

    Args:
        key: two whole numbers from 0 to 2⁶⁴ − 1.
        start: a multiple of `STREAM_BLOCK`.
        count: how many bytes.
    """
    block, rest = divmod(start, STREAM_BLOCK)
    if rest:
        raise ValueError(f"{start} is not a multiple of {STREAM_BLOCK}")
    generator = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=block)
    words: np.ndarray = generator.random_raw(-(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count]


@contextmanager
def torch_seed(seed: int, purpose: str, *, round: int = 0, client: str = "") -> Iterator[None]:  # noqa: A002
    """Sets a keyed torch seed for a block (weight initialisation, dropout), then restores the global generators."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(derive_seed(seed, purpose, round=round, client=client))
        yield
