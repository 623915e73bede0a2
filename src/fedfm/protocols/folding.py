"""Folding a round's updates: the tunable by the recipe's rule, what the algorithm sends beside it by the plain mean.

What the algorithm measures of each update is folded by the recipe's rule too, as a tensor of one value for each figure.
Under a promise of privacy the release takes the updates, and rule and algorithm get its private mean as one update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedfm.aggregation import Contribution, Fold, Mean, Rule
from fedfm.aggregation.lora import AggregationError
from fedfm.algorithms import Aggregate, ServerState
from fedfm.params import Params
from fedfm.privacy import PRIVACY, Release
from fedfm.protocols.base import IO, ClientUpdate
from fedfm.spec import Spec, TensorSpec
from fedfm.views import Slices, holds
from fedfm.wire import TUNABLE

_VALUE = "value"
_ONE_VALUE: Spec = {_VALUE: TensorSpec((), torch.float64)}
_WHOLE: Slices = {_VALUE: ()}

_ONE = Contribution("", 1, 1)
"""A private mean counts as one client's update."""


@dataclass(frozen=True)
class _RuleMemory:
    """A rule's memory in the state of the run; `fedfm.aggregation.Memory`."""

    io: IO
    name: str
    reads_only: bool = False

    def kept(self, key: str) -> Params | None:
        return self.io.kept(self.name, key)

    def keep(self, key: str, params: Params) -> None:
        if not self.reads_only:
            self.io.keep(self.name, key, params)


class RoundFold:
    """Takes sound updates in a fixed order and gives their aggregate."""

    def __init__(
        self,
        io: IO,
        params: Params,
        round: int,  # noqa: A002 - the field's word
        place: str = "",
        release: Release | None = None,
        trial: Rule | None = None,
    ) -> None:
        """An empty fold.

        Args:
            io: of the round.
            params: the server's tunable, from which the step starts.
            round: 1-based round.
            place: of the fold among those of a round; what a rule remembers belongs to its place.
            release: makes the private mean of the round, as `IO.release` gives it.
            trial: the rule of a fold that is only tried, so that nothing is recorded of it; None: the recipe's rule.
        """
        uniform = Mean(weights="uniform")
        self._io, self._params, self._round = io, params, round
        self._recorded = trial is None
        self._rule = io.rule.in_round(round) if trial is None else trial
        self._update: Fold = self._rule.begin(io.spec, params, seed=io.seed, round=round)
        if self._rule.remembers:
            self._update.recall(_RuleMemory(io, f"rule/{place}" if place else "rule", not self._recorded))
        self._error = AggregationError(io.spec, params)
        self._figures: dict[str, Fold] = {}
        self._extras: dict[str, Fold] = {group: uniform.start(io.spec, params) for group in io.algorithm.returned}
        self._release = release
        self._clients: set[str] = set()
        self._steps = self._updates = 0
        self._private: Params = {}
        """What the release keeps for the next round."""
        self._unheld: dict[str, Tensor | None] = dict.fromkeys(io.spec)
        """Tensor → the coordinates that no update covers; None: all of them. Tensors that are covered are absent."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to step on; a private round always has something."""
        return not self._clients and self._release is None

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, update: ClientUpdate) -> None:
        """Folds in one update."""
        self._clients |= set(update.summed or [update.client])
        if self._release is not None:
            self._release.add(update.groups)
            return
        self._fold(update.groups, update.contribution, update.slices)
        if self._recorded and not update.summed:  # the error is in the products of each client's factors
            self._error.add(update.groups[TUNABLE], update.contribution, update.slices, self._weight)
        for figure, value in self._io.algorithm.measure(update.groups[TUNABLE], update.contribution).items():
            if figure not in self._figures:
                zero = {_VALUE: torch.zeros((), dtype=torch.float64)}
                self._figures[figure] = self._rule.of_figures.start(_ONE_VALUE, zero)
            self._figures[figure].add({_VALUE: torch.tensor(value, dtype=torch.float64)}, update.contribution, _WHOLE)
        self._steps += update.facts.steps
        self._updates += update.contribution.copies

    def _weight(self, contribution: Contribution) -> float:
        """The weight of an update in the mean of products with which the result is compared."""
        weight = self._update.weigh(contribution)
        return self._rule.weight(contribution) if weight is None else weight

    def _fold(self, groups: Mapping[str, Mapping[str, Tensor]], contribution: Contribution, slices: Slices) -> None:
        """Folds in the tensors of an update."""
        self._update.add(groups[TUNABLE], contribution, slices)
        for group, fold in self._extras.items():
            fold.add(groups[group], contribution, slices)
        for name in self._unheld.keys() & slices.keys():
            self._cover(name, slices)

    def server_step(self, round: int, params: Params, state: ServerState) -> tuple[Params, ServerState]:  # noqa: A002
        """New tunable and server state; both stay as they are at coordinates that no update covers.

        Raises:
            TooFewClientsError: the rule needs more updates.
            ValueError: nothing was folded in.
        """
        aggregate = self.aggregate(round)
        stepped, server = self._io.algorithm.server_step(params, aggregate, state)
        after = self._kept(stepped, params)
        if self._recorded and (residual := self._update.residual(after)):
            self._io.merge(residual)
        kept = {
            group: self._kept(tensors, state[group]) if group in state else tensors for group, tensors in server.items()
        }
        return after, kept if self._release is None else {**kept, PRIVACY: self._private}

    def _cover(self, name: str, slices: Slices) -> None:
        """Takes the coordinates that an update covers from those that none covers."""
        if not slices[name]:
            del self._unheld[name]
            return
        unheld, covered = self._unheld[name], holds(slices, name, self._io.spec[name].shape)
        unheld = ~covered if unheld is None else unheld & ~covered
        if unheld.any():
            self._unheld[name] = unheld
        else:
            del self._unheld[name]

    def _kept(self, stepped: Params, before: Mapping[str, Tensor]) -> Params:
        """What was stepped to, and what was before where no update covers a coordinate."""
        kept = dict(stepped)
        for name in self._unheld.keys() & before.keys() & stepped.keys():
            unheld = self._unheld[name]
            kept[name] = before[name] if unheld is None else before[name].where(unheld, stepped[name])
        return kept

    def aggregate(self, round: int) -> Aggregate:  # noqa: A002 - the field's word
        """The aggregate; it ends the fold.

        Raises:
            TooFewClientsError: the rule needs more updates.
            ValueError: nothing was folded in.
        """
        clients, combining, steps = float(len(self._clients)), len(self._clients), 1.0
        if self._release is None:
            if self._recorded:
                self._io.require_updates(self._updates)
            steps = self._steps / clients
        else:
            clients, combining = self._release.expected, 1
            groups, self._private = self._release.result()
            self._fold(groups, _ONE, dict.fromkeys(groups[TUNABLE], ()))
        if self._rule.trains_root:
            self._update.refer(self._io.root_update(self._params, self._round))
        combined, replaced = self._update.result(), self._update.replaced()
        for name in replaced:
            self._unheld.pop(name, None)
        if self._recorded and (error := self._error.of(combined, replaced)) is not None:
            self._io.record({"aggregation_error": error})
        if self._recorded and (figures := self._update.figures()):
            self._io.record(figures)
        finished = self._io.up.finish({TUNABLE: combined}, combining)
        for client, reason in self._update.notes().items() if self._recorded else ():
            self._io.note("left out", client, reason)
        return Aggregate(
            update=finished[TUNABLE],
            extras={group: fold.result() for group, fold in self._extras.items()},
            share=clients / len(self._io.clients),
            clients=clients,
            steps=steps,
            round=round,
            figures={name: float(fold.result()[_VALUE]) for name, fold in self._figures.items()},
        )
