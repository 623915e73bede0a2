"""What a run promises about each single example, and what a client may still spend.

The accounting is each client's own: ε composes over all local steps of all rounds in which the client took part, with
its own q and z. The server's choice of clients does not make ε smaller, since the server knows whom it chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fedfm.errors import RecipeError
from fedfm.privacy.accounting import COARSE, calibrated, composed
from fedfm.privacy.private_steps import PrivateSteps, Spending

Spent = Counter[Spending]
"""What one client has spent: rounds by what the steps of each cost."""


@dataclass(frozen=True)
class ExamplePromise:
    """(ε, δ)-differential privacy of each example, at each client.

    Two data sets of a client are neighbours where one has one example more; its number of examples is taken as known.

    Attributes:
        delta: δ.
        clip: C.
        noise_multiplier: z of all clients; None: each client's own, as the budget needs for all rounds.
        budget: the ε that no client may exceed; None: any.
        accountant: computes ε.
        rounds: of the run.
        batch_size: examples of a step, on average.
        steps: examples of a client → its steps a round.
    """

    delta: float
    clip: float
    noise_multiplier: float | None
    budget: float | None
    accountant: str
    rounds: int
    batch_size: int
    steps: Callable[[int], int]

    unit: ClassVar[str] = "example"

    def at(self, examples: int) -> PrivateSteps:
        """The steps of a round of a client with so many examples.

        A client with few examples draws each of them more often. Its own z makes up for that, and does not put more
        noise into the updates of the others.

        Raises:
            RecipeError: δ would allow the release of one of them; dp-accounting is not installed.
        """
        self.check(examples)
        steps, rate = self.steps(examples), min(1.0, self.batch_size / examples)
        z = self.noise_multiplier
        if z is None:
            if self.budget is None:
                raise ValueError("either the noise or the budget is set")
            z = calibrated(self.accountant, self.budget, rate, self.rounds * steps, self.delta)
        return PrivateSteps(examples, steps, rate, z, self.clip)

    def check(self, examples: int) -> None:
        """Checks δ for a client with so many examples.

        Raises:
            RecipeError: it is not below 1 / examples.
        """
        if self.delta * examples >= 1:
            raise RecipeError(
                f"{self.delta:g} is not below 1 / {examples} examples of a client, and would allow the release of one "
                "example as it is: set a smaller one",
                where="privacy.delta",
            )

    def epsilon(self, spent: Mapping[Spending, int]) -> float:
        """ε of one client; 0 where it has spent nothing."""
        releases = Counter[tuple[float, float]]()
        for each, rounds in spent.items():
            releases[each.noise_multiplier, each.rate] += each.steps * rounds
        parts = tuple(sorted((z, rate, count) for (z, rate), count in releases.items()))
        return composed(self.accountant, parts, self.delta, COARSE) if parts else 0.0

    def worst(self, clients: Iterable[Mapping[Spending, int]]) -> tuple[float, Spent]:
        """The largest ε of some clients, and what the client that has it spent; 0 and nothing without clients."""
        found = ((self.epsilon(spent), Counter(spent)) for spent in _undominated(clients))
        return max(found, key=lambda each: each[0], default=(0.0, Counter()))

    def affords(self, spent: Mapping[Spending, int], steps: PrivateSteps) -> bool:
        """Whether a client that has spent so much may take these steps too."""
        if self.budget is None:
            return True
        after = Counter(spent)
        after[steps.spending] += 1
        planned = self.noise_multiplier is None and set(after) == {steps.spending}
        if planned and after[steps.spending] <= self.rounds:  # what the noise was chosen for
            return True
        return self.epsilon(after) <= self.budget

    def planned(self, sizes: Iterable[int]) -> dict[str, Any]:
        """What the promise costs a client in all rounds, or in as many as its budget allows: figures as `figures`.

        With noise of each client's own all of them may spend the budget, and the figures are those of the smallest
        client, which gets most noise.

        Args:
            sizes: examples of each client; 0 where they are not known.
        """
        known = sorted({size for size in sizes if size})
        for size in known[-1:]:
            self.check(size)
        if not known:
            return self._figures(self.budget, Counter(), 0)
        if self.noise_multiplier is None:
            return self._figures(self.budget, Counter({self.at(known[0]).spending: self.rounds}), len(known))
        epsilon, spent = self.worst(self._planned(self.at(size)) for size in known)
        return self._figures(epsilon, spent, len(known))

    def figures(self, clients: Iterable[Mapping[Spending, int]]) -> dict[str, Any]:
        """The promise with the ε of the client that spent most, as ``summary.json`` has it."""
        everyone = list(clients)
        return self._figures(*self.worst(everyone), len(everyone))

    def _planned(self, steps: PrivateSteps) -> Spent:
        """All rounds, or as many as the budget allows."""

        def fits(rounds: int) -> bool:
            return self.budget is None or self.epsilon({steps.spending: rounds}) <= self.budget

        low, high = (self.rounds, self.rounds) if fits(self.rounds) else (0, self.rounds)
        while high - low > 1:  # `low` fits, `high` does not
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return Counter({steps.spending: low} if low else {})

    def _figures(self, epsilon: float | None, spent: Spent, clients: int) -> dict[str, Any]:
        first = next(iter(spent), None)
        return {
            "epsilon": epsilon,
            "delta": self.delta,
            "unit": self.unit,
            "clip": self.clip,
            "noise_multiplier": self.noise_multiplier if first is None else first.noise_multiplier,
            "rate": None if first is None else first.rate,
            "accountant": self.accountant,
            "budget": self.budget,
            "clients": clients,
            "rounds": sum(spent.values()),
            "steps": sum(each.steps * rounds for each, rounds in spent.items()),
        }


def _undominated(clients: Iterable[Mapping[Spending, int]]) -> list[Mapping[Spending, int]]:
    """What some clients spent, without those that surely spent no more than another: as many steps at a lower rate."""
    mixed, highest = set[frozenset[tuple[Spending, int]]](), dict[tuple[float, int], Mapping[Spending, int]]()
    for spent in clients:
        if len(spent) != 1:
            mixed.add(frozenset(spent.items()))
            continue
        ((each, rounds),) = spent.items()
        key = each.noise_multiplier, each.steps * rounds
        if key not in highest or each.rate > next(iter(highest[key])).rate:
            highest[key] = spent
    return [*map(dict, mixed), *highest.values()]
