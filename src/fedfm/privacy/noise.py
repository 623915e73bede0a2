"""Gaussian noise and coin flips that nobody can predict: ChaCha20, keyed from the system's entropy, never seeded.

A sample is half the sum of four Gaussian samples, so that the gaps of floating-point numbers do not tell what noise was
added (Holohan, Braghin, arXiv:2107.10138, section 5).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from fedfm.errors import RecipeError
from fedfm.extras import how_to_install

ROUNDS = 20
"""Rounds of ChaCha."""

KEY_BYTES = 32

SUMMED = 4

KEYS = "noise keys"
"""Name of the keys of earlier rounds' noise in the state between rounds; uint8 ``[rounds, KEY_BYTES]``."""


class Noise(Interface):
    """A source of standard Gaussian noise."""

    def __call__(self, shape: Iterable[int]) -> Tensor:
        """Independent samples of N(0, 1), float64."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What the noise of the next round needs of this one's."""
        ...


def new_key() -> bytes:
    """A key from the system's entropy; ``KEY_BYTES`` long."""
    return secrets.token_bytes(KEY_BYTES)


def unpredictable(key: bytes | None = None) -> np.random.Generator:
    """A generator with a key from the system's entropy.

    Args:
        key: that `new_key` gave; None: a new one.

    Raises:
        RecipeError: randomgen is not installed.
    """
    try:
        from randomgen import ChaCha
    except ImportError as error:
        raise RecipeError(f"randomgen is not installed; {how_to_install('dp')}", where="privacy.kind") from error
    seed = int.from_bytes(new_key() if key is None else key, "little")
    return np.random.Generator(ChaCha(seed=seed, rounds=ROUNDS))


def unpredictable_key() -> int:
    """A key from the system's entropy, for random choices at a client that the server must not be able to repeat."""
    return secrets.randbits(128)


class SystemNoise:
    """Noise of one release."""

    def __init__(self, key: bytes | None = None) -> None:
        """A source.

        Args:
            key: as for `unpredictable`.

        Raises:
            RecipeError: randomgen is not installed.
        """
        self._generator = unpredictable(key)

    def __call__(self, shape: Iterable[int]) -> Tensor:
        """Independent samples of N(0, 1), float64."""
        size = tuple(shape)
        total = np.zeros(size)
        for _ in range(SUMMED):
            total += self._generator.standard_normal(size)
        return torch.as_tensor(total / np.sqrt(SUMMED), dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """Nothing: each release has noise of its own."""
        return {}


class CorrelatedNoise:
    """Noise of one release that takes back a part of earlier ones': Σ_j c_j·z_{t−j}; see `fedfm.privacy.correlated`.

    Whoever has the keys can take the noise off: they stay in the server's checkpoints.
    """

    def __init__(self, coefficients: Iterable[float], state: Mapping[str, Tensor]) -> None:
        """Noise of the next round; its own key is new.

        Args:
            coefficients: c_0, c_1, …
            state: as `state` of the round before gave it; empty before the first.

        Raises:
            RecipeError: randomgen is not installed.
        """
        past = [bytes(row.tolist()) for row in state[KEYS]] if KEYS in state else []
        keys = [new_key(), *past]
        factors = [float(factor) for factor in coefficients]
        self._parts = [(factor, SystemNoise(key)) for factor, key in zip(factors, keys, strict=False)]
        self._kept = keys[: len(factors) - 1]

    def __call__(self, shape: Iterable[int]) -> Tensor:
        """The next samples, float64; each round asks for the same shapes in the same order."""
        size = tuple(shape)
        total = torch.zeros(size, dtype=torch.float64)
        for coefficient, source in self._parts:
            total += coefficient * source(size)
        return total

    def state(self) -> dict[str, Tensor]:
        """The keys that the next round's noise needs."""
        return {KEYS: torch.tensor([list(key) for key in self._kept], dtype=torch.uint8)} if self._kept else {}


def drawn(clients: Iterable[str], rate: float) -> list[str]:
    """A Poisson sample: each client with probability ``rate``, independently; in the order of ``clients``.

    Raises:
        RecipeError: randomgen is not installed.
    """
    names = list(clients)
    chosen = unpredictable().random(len(names)) < rate
    return [name for name, taken in zip(names, chosen, strict=True) if taken]
