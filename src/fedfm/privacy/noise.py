"""Gaussian noise and coin flips that nobody can predict: ChaCha20, keyed from the system's entropy, never seeded.

A sample is half the sum of four Gaussian samples, so that the gaps of floating-point numbers do not tell what noise was
added (Holohan, Braghin, arXiv:2107.10138, section 5).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install

ROUNDS = 20
"""Rounds of ChaCha."""

SUMMED = 4


class Noise(Interface):
    """A source of standard Gaussian noise."""

    def __call__(self, shape: Iterable[int]) -> Tensor:
        """Independent samples of N(0, 1), float64."""
        ...


def unpredictable() -> np.random.Generator:
    """A generator with a new key from the system's entropy.

    Raises:
        RecipeError: randomgen is not installed.
    """
    try:
        from randomgen import ChaCha
    except ImportError as error:
        raise RecipeError(f"randomgen is not installed; {how_to_install('dp')}", where="privacy.kind") from error
    return np.random.Generator(ChaCha(seed=secrets.randbits(256), rounds=ROUNDS))


def unpredictable_key() -> int:
    """A key from the system's entropy, for random choices at a client that the server must not be able to repeat."""
    return secrets.randbits(128)


class SystemNoise:
    """Noise of one release."""

    def __init__(self) -> None:
        """A source with a key of its own.

        Raises:
            RecipeError: randomgen is not installed.
        """
        self._generator = unpredictable()

    def __call__(self, shape: Iterable[int]) -> Tensor:
        """Independent samples of N(0, 1), float64."""
        size = tuple(shape)
        total = np.zeros(size)
        for _ in range(SUMMED):
            total += self._generator.standard_normal(size)
        return torch.as_tensor(total / np.sqrt(SUMMED), dtype=torch.float64)


def drawn(clients: Iterable[str], rate: float) -> list[str]:
    """A Poisson sample: each client with probability ``rate``, independently; in the order of ``clients``.

    Raises:
        RecipeError: randomgen is not installed.
    """
    names = list(clients)
    chosen = unpredictable().random(len(names)) < rate
    return [name for name, taken in zip(names, chosen, strict=True) if taken]
