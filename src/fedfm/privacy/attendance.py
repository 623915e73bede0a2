"""How often clients of a run take part: what a promise about a whole run follows from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Attendance:
    """Who takes part in the rounds of a run.

    Attributes:
        clients: N, of the federation.
        cohort: m, clients a round, on average.
        sampling: `federation.sampling`.
        rounds: T.
    """

    clients: int
    cohort: float
    sampling: str
    rounds: int

    @property
    def sampled(self) -> bool:
        """Whether each client is drawn in each round independently of all else."""
        return self.sampling == "poisson"

    @property
    def rate(self) -> float:
        """q: the probability with which a client is drawn; 1 where nothing is gained by a draw."""
        return self.cohort / self.clients if self.sampled else 1.0

    @property
    def separation(self) -> int | None:
        """b: a client that takes part in round t does not in rounds t + 1 … t + b − 1; None where chance decides."""
        if self.cohort >= self.clients:
            return 1
        return self.clients // int(self.cohort) if self.sampling == "cyclic" else None
