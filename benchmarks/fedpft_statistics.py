"""Accuracy of one method less another's on the same sets, seeds and test examples, and how sure it is."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
"""Of the bootstrap."""


def packed(correct: np.ndarray) -> str:
    """Whether each example was right, bool [N], as text: a bit an example."""
    bits = base64.b64encode(np.packbits(correct).tobytes()).decode()
    return f"{len(correct)}:{bits}"


def unpacked(text: str) -> np.ndarray:
    """The inverse of `packed`."""
    count, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=int(count)).astype(bool)


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another.

    Attributes:
        pairs: (set, seed) → accuracy less accuracy, in points, from runs of both methods with this seed.
        examples: (set, seed) → for each test example in order 1, 0 or −1: the first method's alone is right, both or
            none, the other's alone; int8 [N].
    """

    pairs: Mapping[tuple[str, int], float]
    examples: Mapping[tuple[str, int], np.ndarray]

    @property
    def by_set(self) -> dict[str, float]:
        """Means over seeds."""
        return self._means(0)

    @property
    def mean(self) -> float:
        """Mean over sets of the means over seeds."""
        return statistics.mean(self.by_set.values())

    @property
    def largest(self) -> str:
        """The set that contributes most to the mean, whatever its sign."""
        return max(self.by_set, key=lambda name: abs(self.by_set[name]))

    @property
    def without_largest(self) -> float:
        """`mean`, leaving out `largest`; nan where there is one set."""
        others = [value for name, value in self.by_set.items() if name != self.largest]
        return statistics.mean(others) if others else math.nan

    @property
    def error_of_seeds(self) -> float:
        """Standard error of the mean over these sets, from the means of the seeds."""
        return standard_error(list(self._means(1).values()))

    @property
    def error_of_sets(self) -> float:
        """Standard error of the mean over sets like these, from the means of the sets."""
        return standard_error(list(self.by_set.values()))

    def interval(self, share: float = 0.95) -> tuple[float, float]:
        """Bounds of the mean by a paired bootstrap over seeds and test examples of every set; nan without examples.

        Seeds and examples are drawn with replacement within each set: pairs of runs stay pairs, and an example that is
        drawn is drawn for all seeds.
        """
        if not self.examples or self.examples.keys() != self.pairs.keys():
            return math.nan, math.nan
        generator, means = np.random.default_rng(0), np.zeros(DRAWS)
        names = dict.fromkeys(name for name, _ in self.examples)
        for name in names:
            found = np.stack([value for (owner, _), value in self.examples.items() if owner == name])  # [seeds, N]
            seeds, count = found.shape
            by_seed = generator.multinomial(seeds, [1 / seeds] * seeds, size=DRAWS) / seeds  # [draws, seeds]
            by_example = generator.multinomial(count, [1 / count] * count, size=DRAWS) / count  # [draws, N]
            means += ((by_seed @ found) * by_example).sum(1)
        ends = np.quantile(100 * means / len(names), [(1 - share) / 2, (1 + share) / 2])
        return float(ends[0]), float(ends[1])

    def _means(self, axis: int) -> dict[str, float]:
        keys = dict.fromkeys(pair[axis] for pair in self.pairs)
        return {
            str(key): statistics.mean(value for pair, value in self.pairs.items() if pair[axis] == key) for key in keys
        }


def standard_error(values: Sequence[float]) -> float:
    """Of their mean; nan of fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
