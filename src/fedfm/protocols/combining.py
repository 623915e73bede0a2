"""Combining updates: the tunable by a rule, what the algorithm sends beside it by the plain mean.

What the algorithm measures of each update is combined by the rule too, as a tensor of one value for each figure.
Nothing is recorded: a combination may be one that is only tried. `fedfm.protocols.folding` records a round's.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from fedfm.aggregation import Fold, Mean, Memory, Rule
from fedfm.algorithms import Aggregate, ServerState
from fedfm.params import Params
from fedfm.protocols.coverage import Coverage
from fedfm.protocols.io import IO, ClientUpdate
from fedfm.spec import Spec, TensorSpec
from fedfm.views import Slices
from fedfm.wire import TUNABLE

_VALUE = "value"
_ONE_VALUE: Spec = {_VALUE: TensorSpec((), torch.float64)}
_WHOLE: Slices = {_VALUE: ()}


class Combination:
    """Takes sound updates in a fixed order and gives their aggregate."""

    def __init__(self, io: IO, params: Params, round: int, rule: Rule, memory: Memory) -> None:  # noqa: A002 - the field's word
        """A combination of no updates.

        Args:
            io: of the round.
            params: the server's tunable, from which the step starts.
            round: 1-based round.
            rule: for this round.
            memory: what the rule remembers.
        """
        uniform = Mean(weights="uniform")
        self._io, self._params, self._round, self._rule = io, params, round, rule
        self._update: Fold = rule.begin(io.spec, params, seed=io.seed, round=round)
        if rule.remembers:
            self._update.recall(memory)
        self._figures: dict[str, Fold] = {}
        self._extras: dict[str, Fold] = {group: uniform.start(io.spec, params) for group in io.algorithm.returned}
        self._coverage = Coverage(io.spec)
        self._clients: set[str] = set()
        self._expected = 0.0
        self._steps = 0

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, update: ClientUpdate) -> None:
        """Takes one update."""
        self._update.add(update.groups[TUNABLE], update.contribution, update.slices)
        for group, fold in self._extras.items():
            fold.add(update.groups[group], update.contribution, update.slices)
        self._coverage.add(update.slices)
        for figure, value in self._io.algorithm.measure(update.groups[TUNABLE], update.contribution).items():
            self._measured(figure).add({_VALUE: torch.tensor(value, dtype=torch.float64)}, update.contribution, _WHOLE)
        self._clients |= set(update.summed or [update.client])
        self._expected = update.expected
        self._steps += update.facts.steps

    def _measured(self, figure: str) -> Fold:
        """The fold of a figure that the algorithm measures."""
        if figure not in self._figures:
            zero: dict[str, Tensor] = {_VALUE: torch.zeros((), dtype=torch.float64)}
            self._figures[figure] = self._rule.of_figures.start(_ONE_VALUE, zero)
        return self._figures[figure]

    def server_step(self, params: Params, state: ServerState) -> tuple[Params, ServerState]:
        """New tunable and server state; both stay as they are at coordinates that no update covers.

        Raises:
            TooFewClientsError: the rule needs more updates.
            ValueError: there are none.
        """
        stepped, server = self._io.algorithm.server_step(params, self.aggregate(), state)
        kept = {
            group: self._coverage.kept(tensors, state[group]) if group in state else tensors
            for group, tensors in server.items()
        }
        return self._coverage.kept(stepped, params), kept

    def aggregate(self) -> Aggregate:
        """The aggregate; it ends the combination.

        Raises:
            TooFewClientsError: the rule needs more updates.
            ValueError: there are none.
        """
        if self._rule.trains_root:
            self._update.refer(self._io.root_update(self._params, self._round))
        combined, replaced = self._update.result(), self._update.replaced()
        self._coverage.decided(replaced)
        self._combined(combined, replaced)
        clients = self._expected or float(len(self._clients))
        return Aggregate(
            update=self._io.up.finish({TUNABLE: combined}, len(self._clients))[TUNABLE],
            extras={group: fold.result() for group, fold in self._extras.items()},
            share=clients / len(self._io.clients),
            clients=clients,
            steps=self._steps / len(self._clients),
            round=self._round,
            figures={name: float(fold.result()[_VALUE]) for name, fold in self._figures.items()},
        )

    def _combined(self, combined: Params, replaced: Collection[str]) -> None:
        """Gets what the rule has made of the updates."""
