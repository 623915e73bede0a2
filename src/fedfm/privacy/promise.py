"""What a run promises in numbers, fixed before its first round and recorded in its ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedfm.privacy.accounting import epsilon


@dataclass(frozen=True)
class Promise:
    """(ε, δ)-differential privacy of what a run releases, and how it is kept.

    Two federations are neighbours where one has one unit more than the other.

    Attributes:
        unit: what is protected as a whole: ``client``.
        delta: δ.
        noise_multiplier: z of a round: the standard deviation of the noise over the sensitivity of what is released.
        rate: q: the probability with which a client takes part in a round; 1 where all are asked in every round.
        expected: q·N: the denominator of every round's mean.
        accountant: computes ε.
        budget: the ε that no round may exceed; None: any.
        joint: whether all rounds together are one release of noise multiplier z, as where it is known when each client
            takes part; else each round is one.
        planned: the rounds of a joint release; None: each round is one by itself.
        sensitivity: what one client moves all rounds of a joint release by, in units of the clipping bound.
        bands: rounds over which noise is correlated.
    """

    unit: str
    delta: float
    noise_multiplier: float
    rate: float
    expected: float
    accountant: str = "pld"
    budget: float | None = None
    joint: bool = False
    planned: int | None = None
    sensitivity: float = 1.0
    bands: int = 1

    @property
    def round_noise(self) -> float:
        """Standard deviation of the fresh noise in the sum of a round, in units of the clipping bound."""
        return self.noise_multiplier * self.sensitivity

    def epsilon(self, releases: Mapping[int, int]) -> float:
        """ε of a run.

        A round that was played again after an interruption has the same cohort and fresh noise. Its k releases are one
        release with noise multiplier z/√k of the same sample, not k releases of independent samples.

        Args:
            releases: round → how often it was released.
        """
        if not releases:
            return 0.0
        repeats = {max(releases.values()): 1} if self.joint else Counter(releases.values())
        return epsilon(self.accountant, self.noise_multiplier, self.rate, tuple(sorted(repeats.items())), self.delta)

    def affordable(self, releases: Mapping[int, int], first: int, last: int) -> int:
        """The last of the rounds from ``first`` to ``last`` up to which the budget lasts; ``first − 1``: none of them.

        Args:
            releases: before round ``first``.
            first: the next round.
            last: of the run.
        """
        if self.planned is not None:
            last = max(first - 1, min(last, self.planned))
        if self.budget is None:
            return last

        def fits(end: int) -> bool:
            counts = Counter(releases)
            counts.update(range(first, end + 1))
            return self.budget is None or self.epsilon(counts) <= self.budget

        if fits(last):
            return last
        low, high = first - 1, last  # `low` fits or is the state as it is, `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def figures(self, releases: Mapping[int, int]) -> dict[str, Any]:
        """The promise with the ε of some releases, as ``summary.json`` has it."""
        return {
            "epsilon": self.epsilon(releases),
            **self.record(),
            "rounds": len(releases),
            "releases": sum(releases.values()),
        }
