"""What the server does where clients protect their examples: it asks no client that has spent its budget.

Each client keeps the promise itself. In a simulation this process is all clients, and its ledger is theirs. With real
sites the server keeps the same account of what it asked for; each site has a ledger of its own, on which it relies.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedfm.errors import RecipeError
from fedfm.privacy.client_ledger import ClientLedger, promise_line, steps_line
from fedfm.privacy.example_promise import ExamplePromise
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.participation import Participations
from fedfm.server.rounds.privacy_guard import PrivacyGuard, append_ahead


class ExampleGuard(PrivacyGuard):
    """What the clients of a run promise about their examples, and what they have spent.

    Attributes:
        examples: the promise.
        spent: by each client, as the ledger has it.
    """

    def __init__(self, experiment: Experiment, folder: RunFolder, examples: ExamplePromise) -> None:
        """Reads the ledger.

        Args:
            experiment: the run.
            folder: of the run.
            examples: the promise.

        Raises:
            DataError, StorageError: the ledger is damaged.
        """
        super().__init__(experiment, folder)
        self.examples, self._clients = examples, experiment.data.clients
        self.spent = ClientLedger.of(jsonl.records(folder.privacy))

    def check(self, played: int, contributions: Participations) -> None:
        """As `PrivacyGuard.check`: each client must have spent in as many rounds as it contributed to."""
        for client, of in sorted(contributions.items()):
            if self.spent.rounds[client].total() < of.rounds:
                raise RecipeError(
                    f"{self._folder.privacy} lacks steps of client {client}, which contributed to {of.rounds} rounds, "
                    "so that nobody knows what was spent: restore the file, or start a new run",
                    source="run",
                )

    def unaskable(self, number: int, clients: Collection[str]) -> dict[str, str]:
        """As `PrivacyGuard.unaskable`: those that another round would take beyond their budget."""
        reasons = {client: self._reason(client) for client in clients}
        return {client: reason for client, reason in reasons.items() if reason is not None}

    def charge(self, number: int, clients: Collection[str]) -> None:
        """As `PrivacyGuard.charge`."""
        lines = [steps_line(client, number, self.examples.at(self._clients[client])) for client in sorted(clients)]
        if not lines:
            return
        fresh = not self.spent.rounds
        for line in lines:
            self.spent.add(line)
        append_ahead(self._folder, [promise_line(self.examples), *lines] if fresh else lines)

    def allows(self, number: int) -> bool:
        """As `PrivacyGuard.allows`: whether as many clients as a round needs may take part in one more."""
        if self.examples.budget is None:
            return True
        recipe, left = self._recipe, 0
        least = max(1, recipe.federation.min_clients or 1, recipe.aggregate.least, recipe.secure.least)
        for client in self._clients:
            left += self._reason(client) is None
            if left >= least:
                return True
        return False

    def figures(self) -> dict[str, Any]:
        """As `PrivacyGuard.figures`, of the client that spent most."""
        return {"kind": self._recipe.privacy.kind, **self.examples.figures(self.spent.spent.values())}

    def _reason(self, client: str) -> str | None:
        """Why a client must not train in another round."""
        examples = self._clients[client]
        if not examples:
            return "it has not said how many examples it has, by which its privacy is accounted"
        if self.examples.affords(self.spent.spent[client], self.examples.at(examples)):
            return None
        return "its privacy budget is spent: another round would exceed privacy.epsilon"


def guard_of(experiment: Experiment, folder: RunFolder) -> PrivacyGuard:
    """What keeps the recipe's promise of privacy.

    Raises:
        DataError, StorageError: the ledger is damaged.
    """
    examples = experiment.example_promise
    return PrivacyGuard(experiment, folder) if examples is None else ExampleGuard(experiment, folder, examples)
