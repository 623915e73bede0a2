"""Masks of one vector: keystreams that are added modulo 2^b, of which the pairwise ones cancel in the sum.

    y_u = x_u + PRG(b_u) + Σ_{v > u} PRG(k_uv) − Σ_{v < u} PRG(k_uv)

over u's neighbours v (Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017,
https://eprint.iacr.org/2017/281, §4). k_uv comes from X25519 and HKDF, b_u is u's own 256-bit secret, PRG is ChaCha20.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedfm.secure.grid import FACTS, Words
from fedfm.secure.primitives import agree, derive, keystream

SELF, PAIR = b"fedfm secure mask of its own", b"fedfm secure mask of a pair"


@dataclass
class Masked:
    """Facts and values as one vector, to which masks are added in place.

    Attributes:
        facts: ``[len(FACTS)]`` modulo 2⁶⁴.
        values: ``[P]`` modulo 2^b.
    """

    facts: Words
    values: Words

    @classmethod
    def zeros(cls, values: int, dtype: np.dtype[np.unsignedinteger]) -> Masked:
        """An empty sum."""
        return cls(np.zeros(len(FACTS), dtype="<u8"), np.zeros(values, dtype=dtype))

    def copy(self) -> Masked:
        """One that can be changed."""
        return Masked(self.facts.copy(), self.values.copy())

    def tobytes(self) -> bytes:
        """What a digest is of."""
        return self.facts.tobytes() + self.values.tobytes()

    def add(self, other: Masked) -> None:
        """Adds another vector."""
        self.facts += other.facts
        self.values += other.values

    def mask(self, key: bytes, *, negative: bool = False) -> None:
        """Adds the keystream of a key, or takes it away."""
        stream = keystream(key, self.facts.nbytes + self.values.nbytes)
        facts = np.frombuffer(stream, dtype=self.facts.dtype, count=len(self.facts))
        values = np.frombuffer(stream, dtype=self.values.dtype, offset=self.facts.nbytes)
        change = np.subtract if negative else np.add
        change(self.facts, facts, out=self.facts)
        change(self.values, values, out=self.values)


def self_key(seed: bytes, context: bytes) -> bytes:
    """The key of PRG(b_u)."""
    return derive(seed, context, SELF)


def pair_key(secret: bytes, public: bytes, context: bytes) -> bytes:
    """The key of PRG(k_uv), from the masking secret of one and the masking key of the other."""
    return agree(secret, public, context, PAIR)


def is_negative(client: str, other: str) -> bool:
    """Whether ``client`` takes away the mask that it shares with ``other``."""
    return other < client
