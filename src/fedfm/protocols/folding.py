"""Folding a round's updates: the tunable by the recipe's rule, what the algorithm sends beside it by the plain mean."""

from __future__ import annotations

from fedfm.aggregation import Fold, Mean
from fedfm.algorithms import Aggregate
from fedfm.params import Params
from fedfm.protocols.base import IO, ClientUpdate
from fedfm.wire import TUNABLE


class RoundFold:
    """Takes sound updates in a fixed order and gives their aggregate."""

    def __init__(self, io: IO, params: Params) -> None:
        uniform = Mean(weights="uniform")
        self._io = io
        self._update: Fold = io.rule.start(io.spec, params)
        self._extras: dict[str, Fold] = {group: uniform.start(io.spec, params) for group in io.algorithm.returned}
        self._clients: set[str] = set()
        self._steps = 0

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, update: ClientUpdate) -> None:
        """Folds in one update."""
        self._update.add(update.groups[TUNABLE], update.contribution, update.slices)
        for group, fold in self._extras.items():
            fold.add(update.groups[group], update.contribution, update.slices)
        self._clients.add(update.client)
        self._steps += update.facts.steps

    def result(self, round: int) -> Aggregate:  # noqa: A002 - the field's word
        """The aggregate; it ends the fold.

        Raises:
            ValueError: nothing was folded in.
        """
        clients = len(self._clients)
        finished = self._io.up.finish({TUNABLE: self._update.result()}, clients)
        return Aggregate(
            update=finished[TUNABLE],
            extras={group: fold.result() for group, fold in self._extras.items()},
            share=clients / len(self._io.clients),
            steps=self._steps / clients,
            round=round,
        )
