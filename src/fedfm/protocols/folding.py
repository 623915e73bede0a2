"""A round's fold: its updates combined by the recipe's rule, and what is recorded of that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fedfm.aggregation import Contribution
from fedfm.aggregation.lora import AggregationError
from fedfm.algorithms import Aggregate, ServerState
from fedfm.params import Params
from fedfm.protocols.combining import Combination
from fedfm.protocols.io import IO, ClientUpdate
from fedfm.wire import TUNABLE

RULE = "rule"
"""Name of what a rule remembers in the state of the run."""


@dataclass(frozen=True)
class RuleMemory:
    """A rule's memory in the state of the run; `fedfm.aggregation.Memory`.

    Attributes:
        io: of the round.
        name: under which the run keeps it.
    """

    io: IO
    name: str = RULE

    def kept(self, key: str) -> Params | None:
        """What was stored under a key."""
        return self.io.kept(self.name, key)

    def keep(self, key: str, params: Params) -> None:
        """Stores tensors with this round."""
        self.io.keep(self.name, key, params)


class RoundFold(Combination):
    """Takes a round's sound updates in a fixed order and gives their aggregate."""

    def __init__(self, io: IO, params: Params, round: int, place: str = "") -> None:  # noqa: A002 - the field's word
        """An empty fold.

        Args:
            io: of the round.
            params: the server's tunable, from which the step starts.
            round: 1-based round.
            place: of the fold among those of a round; what a rule remembers belongs to its place.
        """
        rule = io.rule.in_round(round)
        super().__init__(io, params, round, rule, RuleMemory(io, f"{RULE}/{place}" if place else RULE))
        self._error = AggregationError(io.spec, params)
        self._updates = 0

    def add(self, update: ClientUpdate) -> None:
        """Folds in one update."""
        super().add(update)
        if not update.is_mean:  # the error is in the products of each client's factors
            self._error.add(update.groups[TUNABLE], update.contribution, update.slices, self._weight)
        self._updates += update.contribution.copies

    def aggregate(self) -> Aggregate:
        """The aggregate, as `Combination.aggregate`; records what the rule left out and how far it is from exact."""
        self._io.require_updates(self._updates)
        return super().aggregate()

    def _combined(self, combined: Params, replaced: Collection[str]) -> None:
        if (error := self._error.of(combined, frozenset(replaced))) is not None:
            self._io.record({"aggregation_error": error})
        if figures := self._update.figures():
            self._io.record(figures)
        for client, reason in self._update.notes().items():
            self._io.note("left out", client, reason)

    def server_step(self, params: Params, state: ServerState) -> tuple[Params, ServerState]:
        """New tunable and server state, as `Combination.server_step`; and residuals for frozen weights."""
        after, server = super().server_step(params, state)
        if residual := self._update.residual(after):
            self._io.merge(residual)
        return after, server

    def _weight(self, contribution: Contribution) -> float:
        """The weight of an update in the mean of products with which the result is compared."""
        weight = self._update.weigh(contribution)
        return self._rule.weight(contribution) if weight is None else weight
