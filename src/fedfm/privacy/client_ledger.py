"""The ledger of a client's local steps: what each client has spent in which round.

A line is on disk before the client takes the steps that it is about. A client that was killed may therefore have spent
less than its ledger says, and never more. In a simulation the run's ``privacy.jsonl`` has the lines of all clients; a
site has its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedfm.privacy.example_promise import ExamplePromise, Spent
from fedfm.privacy.ledger import add_all
from fedfm.privacy.private_steps import PrivateSteps, Spending

PROMISE, STEPS = "promise", "steps"
"""Kinds of lines."""


@dataclass
class ClientLedger:
    """What clients spent.

    Attributes:
        spent: client id → what it spent.
        rounds: client id → how often it took the steps of each round.
    """

    spent: defaultdict[str, Spent] = field(default_factory=lambda: defaultdict(Counter))
    rounds: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], name: str = "privacy.jsonl") -> ClientLedger:
        """The ledger that these lines are.

        Raises:
            StorageError: a line is not one of a ledger.
        """
        found = cls()
        add_all(found, records, name)
        return found

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a line.

        Raises:
            KeyError, TypeError, ValueError: it is not one of a ledger.
        """
        if record["kind"] == PROMISE:
            return
        if record["kind"] != STEPS:
            raise ValueError(f"{record['kind']} is not a kind of line")
        spending = Spending(float(record["noise_multiplier"]), float(record["rate"]), int(record["steps"]))
        if not (spending.noise_multiplier > 0 and 0 < spending.rate <= 1 and spending.steps > 0):
            raise ValueError("no steps cost that")
        self.spent[str(record["client"])][spending] += 1
        self.rounds[str(record["client"])][int(record["round"])] += 1


def promise_line(promise: ExamplePromise) -> dict[str, Any]:
    """What the lines after it are spent under."""
    return {
        "kind": PROMISE,
        "unit": promise.unit,
        "delta": promise.delta,
        "accountant": promise.accountant,
        "budget": promise.budget,
    }


def steps_line(client: str, round: int, steps: PrivateSteps) -> dict[str, Any]:  # noqa: A002 - the field's word
    """What a client is about to spend."""
    return {
        "kind": STEPS,
        "client": client,
        "round": round,
        "noise_multiplier": steps.noise_multiplier,
        "clip": steps.clip,
        "rate": steps.rate,
        "steps": steps.steps,
        "examples": steps.examples,
    }
