"""What the server does to keep a promise of privacy: it draws cohorts, writes the ledger ahead, and ends in time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedfm.errors import RecipeError
from fedfm.params import Params
from fedfm.privacy import Charge, Ledger, Promise, Release
from fedfm.privacy.ledger import COHORT, PROMISE
from fedfm.privacy.noise import drawn
from fedfm.records import disk, jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.participation import Participations
from fedfm.spec import Spec


class PrivacyGuard:
    """The promise of one run and its ledger.

    Attributes:
        promise: as the ledger has it, else as the recipe gives it; None where nothing is promised.
        ledger: what was written.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder) -> None:
        """Reads the ledger.

        Args:
            experiment: the run.
            folder: of the run.

        Raises:
            DataError, StorageError: the ledger is damaged.
        """
        self._recipe, self._folder = experiment.recipe, folder
        self.ledger = Ledger.of(jsonl.records(folder.privacy) if experiment.promise else ())
        self.promise: Promise | None = self.ledger.promise or experiment.promise
        self._last: int | None = None
        """The last round that the budget allows, once it is known; in one process each round is released once."""

    def check(self, played: int, contributions: Participations) -> None:
        """Refuses to go on after ``played`` rounds with a ledger that does not have all that they spent.

        Args:
            played: rounds.
            contributions: of clients to them, as far as the server knows them.

        Raises:
            RecipeError: what was spent is not known.
        """
        missing = [n for n in range(1, played + 1) if not self.ledger.releases[n]]
        if self.promise is not None and missing:
            raise RecipeError(
                f"{self._folder.privacy} lacks the release of round {missing[0]}, so that nobody knows what was spent: "
                "restore the file, or start a new run",
                source="run",
            )

    def cohort(self, number: int, clients: Collection[str]) -> dict[str, int] | None:
        """The clients of a round in sorted order, each once; None where the recipe's sampling decides.

        A round that is played again has its first cohort.

        Raises:
            StorageError: the ledger cannot be written.
        """
        promise = self.promise
        if promise is None or promise.rate >= 1:
            return None
        if number not in self.ledger.cohorts:
            chosen = drawn(sorted(clients), promise.rate)
            self._write(promise, {"kind": COHORT, "round": number, "clients": chosen})
        return dict.fromkeys(sorted(self.ledger.cohorts[number]), 1)

    def unaskable(self, number: int, clients: Collection[str]) -> dict[str, str]:
        """Those of some clients that must not train in a round → why."""
        return {}

    def charge(self, number: int, clients: Collection[str]) -> None:
        """Records what clients are about to spend by training in a round, before they are asked.

        Raises:
            StorageError: the ledger cannot be written.
        """

    def release(self, number: int, groups: Mapping[str, Spec], state: Params) -> Release | None:
        """How the updates of a round become one private mean; None where nothing is promised."""
        promise = self.promise
        if promise is None:
            return None

        def charged(charge: Charge) -> None:
            self._write(promise, charge.record())

        return self._recipe.privacy.release(promise, groups, round=number, state=state, charged=charged)

    def allows(self, number: int) -> bool:
        """Whether the budget allows one more release, of this round."""
        if self.promise is None or (self.promise.budget is None and not self.promise.joint):
            return True
        if self._last is None:
            last = self._recipe.federation.rounds
            self._last = self.promise.affordable(self.ledger.releases, number, last) if number <= last else last
        return number <= self._last

    def figures(self) -> dict[str, Any] | None:
        """What was promised and spent so far, for ``summary.json``; None where nothing is promised."""
        if self.promise is None:
            return None
        return {"kind": self._recipe.privacy.kind, **self.promise.figures(self.ledger.releases)}

    def _write(self, promise: Promise, record: Mapping[str, Any]) -> None:
        """Adds a line, and the promise before the first; both are on disk afterwards."""
        lines = [record] if self.ledger.promise else [{"kind": PROMISE, **promise.record()}, record]
        for line in lines:
            self.ledger.add(line)
        append_ahead(self._folder, lines)


def append_ahead(folder: RunFolder, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to the ledger of a run; they are on disk afterwards.

    Raises:
        StorageError: it cannot be written.
    """
    folder.cut_unfinished_line(folder.privacy)
    for line in lines:
        folder.append(folder.privacy, line)
    disk.synced_size(folder.privacy)
    disk.sync(folder.path)
