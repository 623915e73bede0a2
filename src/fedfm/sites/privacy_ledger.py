"""A site's own account of what it has spent of the privacy of its examples.

The site does not rely on the server's account: a server that asks again, or forgets what it asked, is refused once the
recipe's ε is spent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from fedfm.errors import RecipeError, StorageError
from fedfm.privacy import ExamplePromise
from fedfm.privacy.client_ledger import ClientLedger, steps_line
from fedfm.records import disk, jsonl
from fedfm.sites.journal import append, end_with_a_line


class PrivacyLedger:
    """``privacy.jsonl`` of the site: lines as of a run's ledger, each with the digest of its ``run``. It is never cut.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path) -> None:
        """The ledger in a folder of the site's own records.

        Raises:
            StorageError: a line is damaged.
        """
        self.path = folder / "privacy.jsonl"
        self._runs: defaultdict[str, ClientLedger] = defaultdict(ClientLedger)
        end_with_a_line(self.path)
        for number, line in enumerate(jsonl.records(self.path), start=1):
            try:
                self._runs[str(line["run"])].add(line)
            except (KeyError, TypeError, ValueError) as error:
                raise StorageError(f"line {number} of {self.path} is damaged: what was spent is not known") from error

    def charge(
        self,
        promise: ExamplePromise,
        run: str,
        client: str,
        round: int,  # noqa: A002 - the field's word
        *,
        examples: int,
        left: Collection[int],
    ) -> None:
        """Records what the site is about to spend; when it returns, the line is on disk.

        Args:
            promise: of the run.
            run: digest of the run, the same before and after a resume.
            client: id of the site's client.
            round: 1-based round.
            examples: that the client has.
            left: rounds of the run in which updates have left the site.

        Raises:
            RecipeError: another round would exceed `privacy.epsilon`, or δ does not fit the site.
            StorageError: the ledger lacks what was spent, or cannot be written.
        """
        found, steps = self._runs[run], promise.at(examples)
        if missing := sorted(set(left) - found.rounds[client].keys()):
            raise StorageError(
                f"{self.path} lacks round {missing[0]}, from which an update has left, so that nobody knows what was "
                "spent: restore the file"
            )
        if not promise.affords(found.spent[client], steps):
            raise RecipeError(
                f"the site has spent {promise.epsilon(found.spent[client]):.3g}, and another round would exceed the "
                f"run's ε ({promise.budget:g})",
                where="privacy.epsilon",
            )
        line = {"run": run, **steps_line(client, round, steps)}
        append(self.path, line)
        disk.synced_size(self.path)
        disk.sync(self.path.parent)
        found.add(line)
