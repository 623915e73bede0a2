"""Replay: a client keeps some examples of the tasks that are over, and trains on them beside those of the present one.

Rolnick et al., Experience Replay for Continual Learning, arXiv:1811.11682; that a few examples suffice: Chaudhry et
al., On Tiny Episodic Memories in Continual Learning, arXiv:1902.10486. The memory of M examples is a reservoir (Vitter,
Random Sampling with a Reservoir, 1985): each example gets a random number when it comes, and the M smallest stay. So
after any number of tasks each example that the client has had is in it with the same probability, and one that was
thrown away never comes back. The numbers are keyed by seed and client: a resumed run has the same memory.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fedfm.randomness import numpy_generator
from fedfm.settings import Settings


class Replay(Settings):
    """Which examples of earlier tasks a client keeps, and how often it trains on them."""

    examples: Annotated[int, Field(ge=1, le=1_000_000_000)] = 50
    """M: examples of earlier tasks that a client keeps, at most."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of replayed examples in what a client trains on in a round, from its second task on."""

    def memory(self, earlier: np.ndarray, held: np.ndarray, client: str, seed: int) -> np.ndarray:
        """What a client still has of earlier tasks.

        Args:
            earlier: bool [n], which of its examples belong to earlier tasks.
            held: int64 [n], indices of its examples.
            client: client id.
            seed: the run's.
        """
        numbers = numpy_generator(seed, "replay memory", client=client).random(len(held))
        came = np.flatnonzero(earlier)
        return held[np.sort(came[np.argsort(numbers[came], kind="stable")[: self.examples]])]

    def drawn(self, memory: np.ndarray, fresh: int, client: str, seed: int, round: int) -> np.ndarray:  # noqa: A002
        """What a client replays in a round: all of its memory before any of it a second time.

        Args:
            memory: indices.
            fresh: number of examples of the present task.
            client: client id.
            seed: the run's.
            round: 1-based round.
        """
        if not len(memory):
            return memory
        wanted = round_half_up(fresh * self.share / (1 - self.share))
        generator = numpy_generator(seed, "replay", round=round, client=client)
        passes = [generator.permutation(memory) for _ in range(-(-wanted // len(memory)))]
        return np.concatenate([memory[:0], *passes])[:wanted]


def round_half_up(value: float) -> int:
    """The nearest whole number; ½ counts up."""
    return int(np.floor(value + 0.5))
