"""Fixed-point numbers modulo 2^b: masks hide a vector perfectly only where its values are integers of a ring.

A value x of a client of weight w becomes the integer

    q = ⌊w·clip(x, ±C)/s + u⌋ mod 2^b,    u uniform in [0, 1)

which is w·x/s on average. With N clients of weights up to W and s = C·W·N / (0.99·2^{b−1}), the sum of all q stays
below 2^{b−1}, so that it does not wrap, and Σ w_c·x_c is off by at most N·s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedfm.secure.primitives import derive, keystream
from fedfm.secure.terms import Bits

Words = NDArray[np.unsignedinteger]
"""A vector modulo 2³² or 2⁶⁴, ``<u4`` or ``<u8``."""

FACTS = ("weight", "examples", "steps", "samples", "predictions", "clipped", "loss")
"""What is summed beside the values, in this order; the loss is that of all predictions, in units of `LOSS_STEP`."""
LOSS_STEP = 2.0**-20
_USED = 0.99
"""Share of the integers that sums may take; the rest is for rounding, which adds one a client."""
MOST_LOSS = 2.0**30
"""A loss is clipped to this, so that the sum of 2¹³ of them does not wrap."""


@dataclass(frozen=True)
class Grid:
    """The integers that values become.

    Attributes:
        clients: N, whose vectors are summed at most.
        clip: C, the largest magnitude of a value.
        weight: W, the largest weight.
        bits: b.
    """

    clients: int
    clip: float
    weight: float
    bits: Bits

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Of a vector."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def step(self) -> float:
        """s: what one unit is worth."""
        return float(self.clip * self.weight * self.clients / (_USED * 2.0 ** (self.bits - 1)))

    def encode(
        self, values: NDArray[np.float64], weight: float | NDArray[np.float64], dither: NDArray[np.float64]
    ) -> Words:
        """The integers of weighted values.

        Args:
            values: ``[P]``, finite.
            weight: w, at most `weight`; one, or one for each value.
            dither: u, ``[P]``.
        """
        scaled = np.clip(values, -self.clip, self.clip)
        scaled *= weight / self.step
        scaled += dither
        return np.floor(scaled, out=scaled).astype(np.int64).view(np.uint64).astype(self.dtype)

    def decode(self, total: Words) -> NDArray[np.float64]:
        """Σ w_c·x_c from the sum of what `encode` returned."""
        return total.view(np.dtype(f"<i{self.bits // 8}")) * self.step


def dither(count: int, *, seed: int, round: int, client: str) -> NDArray[np.float64]:  # noqa: A002 - the field's word
    """Numbers in [0, 1) with 32 bits each, ``[count]``, by which a client rounds in a round.

    They are no secret. They have a key, as all choices that decide the model: a repeated round has the same sum.
    """
    key = derive(json.dumps([seed, round, client]).encode(), b"", b"fedfm secure rounding")
    return np.frombuffer(keystream(key, 4 * count), dtype="<u4") * 2.0**-32


def encode_facts(facts: Mapping[str, float]) -> Words:
    """Sums of a client's facts, ``[len(FACTS)]`` modulo 2⁶⁴.

    Args:
        facts: counts, and the loss summed over predictions, by the names of `FACTS`.
    """
    loss = min(max(facts["loss"], -MOST_LOSS), MOST_LOSS) / LOSS_STEP
    values = [int(facts[name]) for name in FACTS[:-1]] + [round(loss)]
    return np.array(values, dtype="<i8").view("<u8")


def decode_facts(total: Words) -> dict[str, float]:
    """The inverse of `encode_facts`, of a sum."""
    values = total.view("<i8")
    return {name: float(value) for name, value in zip(FACTS, values, strict=True)} | {
        "loss": float(values[-1]) * LOSS_STEP
    }
