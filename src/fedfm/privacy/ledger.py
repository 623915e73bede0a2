"""The privacy ledger: what a run has promised, which clients it has drawn, and what it has released.

A line is on disk before what it is about happens: the cohort before its clients are asked, a release before its noise
is drawn. A run that was killed may therefore have spent less than its ledger says, and never more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from typing import Protocol as Interface

from fedfm.errors import StorageError
from fedfm.privacy.promise import Promise

PROMISE, COHORT, RELEASE = "promise", "cohort", "release"
"""Kinds of lines."""


@dataclass(frozen=True)
class Charge:
    """One release.

    Attributes:
        round: 1-based round.
        noise_multiplier: z of all that is released together.
        clip: the bound on the norm of each client's contribution.
    """

    round: int
    noise_multiplier: float
    clip: float

    def record(self) -> dict[str, Any]:
        """As a line of the ledger."""
        return {"kind": RELEASE, **asdict(self)}


@dataclass
class Ledger:
    """The content of ``privacy.jsonl``.

    Attributes:
        promise: of the run; None where the ledger is empty.
        cohorts: round → the clients that were drawn for it.
        releases: round → how often it was released.
    """

    promise: Promise | None = None
    cohorts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    releases: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Ledger:
        """The ledger that these lines are.

        Raises:
            StorageError: a line is not one of a ledger.
        """
        found = cls()
        add_all(found, records)
        return found

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a line.

        Raises:
            KeyError, TypeError, ValueError: it is not one of a ledger.
        """
        rest = {key: value for key, value in record.items() if key != "kind"}
        match record["kind"]:
            case "promise":
                self.promise = Promise(**rest)
            case "cohort":
                self.cohorts[int(rest["round"])] = tuple(map(str, rest["clients"]))
            case "release":
                self.releases[Charge(**rest).round] += 1
            case kind:
                raise ValueError(f"{kind} is not a kind of line")


class Lines(Interface):
    """What takes the lines of a ledger."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a line; raises KeyError, TypeError or ValueError where it is not one of this ledger."""
        ...


def add_all(ledger: Lines, records: Iterable[Mapping[str, Any]], name: str = "privacy.jsonl") -> None:
    """Adds lines in order.

    Raises:
        StorageError: a line is not one of a ledger.
    """
    for number, record in enumerate(records, start=1):
        try:
            ledger.add(record)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"line {number} of {name} is damaged: what was spent is not known") from error
