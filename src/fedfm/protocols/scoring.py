"""A round's fold whose updates are scored by client, where the recipe asks for that; see `fedfm.contributions`.

The model of a coalition is that of the server's whole step with the updates of the coalition alone: the recipe's rule,
then the algorithm. A rule that needs more updates than a coalition has gives way to the mean with equal weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedfm.aggregation import Mean, Rule
from fedfm.algorithms import ServerState
from fedfm.contributions import Game
from fedfm.params import Params, zeros_like
from fedfm.protocols.combining import Combination
from fedfm.protocols.folding import RoundFold, RuleMemory
from fedfm.protocols.ingredients import Ingredients
from fedfm.protocols.io import IO, ClientUpdate
from fedfm.randomness import numpy_generator
from fedfm.views import widen
from fedfm.wire import TUNABLE

SPLIT = "contribution"
"""Split of the scores in metrics.jsonl."""


class ScoredFold(RoundFold):
    """A fold that keeps the updates on disk and scores them after the server's step; else like any other."""

    def __init__(self, io: IO, params: Params, round: int) -> None:  # noqa: A002 - the field's word
        """As `RoundFold`."""
        super().__init__(io, params, round)
        self._scored = Ingredients() if io.contribution.scores_clients else None

    def add(self, update: ClientUpdate) -> None:
        """Folds in one update, as `RoundFold.add`."""
        super().add(update)
        if self._scored is not None:
            self._scored.add(update)

    def server_step(self, params: Params, state: ServerState) -> tuple[Params, ServerState]:
        """New tunable and server state, as `RoundFold.server_step`; records the scores of the round."""
        stepped = super().server_step(params, state)
        if self._scored is not None:
            game = RoundGame(self._io, self._scored, self._round, params, state)
            for client, score in self._io.contribution.scores(game).items():
                self._io.measure(SPLIT, {"client": client, "score": score})
            self._io.measure(SPLIT, game.figures())
        return stepped


class ReadOnlyMemory(RuleMemory):
    """What the rule remembers, for trials that leave it as it is."""

    def keep(self, key: str, params: Params) -> None:
        """Stores nothing."""


class RoundGame(Game):
    """The game of a round's updates."""

    def __init__(
        self,
        io: IO,
        updates: Mapping[str, ClientUpdate],
        round: int,  # noqa: A002
        params: Params,
        state: ServerState,
    ) -> None:
        """A game.

        Args:
            io: of the round.
            updates: client id → its update, in the order in which they are folded.
            round: 1-based round.
            params: the tunable before the server's step.
            state: the algorithm's state at the server, before it.
        """
        super().__init__(list(updates), numpy_generator(io.seed, SPLIT, round=round))
        self._io, self._updates, self._round = io, updates, round
        self._params, self._state = params, state

    def figures(self) -> dict[str, Any]:
        """What the scores took, and the change of the utility that they share, where models were evaluated."""
        change = {"change": self.change} if self.evaluations else {}
        return {**change, "evaluations": self.evaluations}

    def evaluate(self, coalition: Sequence[str]) -> float:
        """U of the model that the server's step gives with the updates of a coalition; without any, of the one before.

        Args:
            coalition: clients.
        """
        params = self._params
        if coalition:
            trial = Combination(self._io, params, self._round, self._rule(coalition), ReadOnlyMemory(self._io))
            for client in coalition:
                trial.add(self._updates[client])
            params, _ = trial.server_step(params, self._state)
        return self._io.contribution.utility_of(self._io.judge(params))

    def update(self, client: str) -> Params:
        """Δ_i in full coordinates."""
        update = self._updates[client]
        return widen(update.groups[TUNABLE], update.slices, zeros_like(self._params))

    def aggregate(self) -> Params:
        """The aggregate Δ by the rule."""
        fold = self._rule(self.clients).begin(self._io.spec, self._params, seed=self._io.seed, round=self._round)
        for update in self._updates.values():
            fold.add(update.groups[TUNABLE], update.contribution, update.slices)
        return fold.result()

    def _rule(self, coalition: Sequence[str]) -> Rule:
        drawn = sum(self._updates[client].contribution.copies for client in coalition)
        return self._io.rule.in_round(self._round) if drawn >= self._io.rule.least else Mean(weights="uniform")
