"""Greedy soup: the server keeps those clients whose update makes the mean better on its validation set.

Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time, arXiv:2203.05482, Recipe 1. With the tunables w_c of a round's clients, from the best one to the worst
by their scores on `data.validation`:

    S ← {first};      for each further c:   S ← S ∪ {c}   if   score(mean of S ∪ {c}) ≥ score(mean of S)

The mean is that of the recipe's rule (`weights: uniform` is the paper's), and the algorithm steps with the mean of S. A
score is the task's main metric; clients of equal metric are sorted by their loss. A round of K clients takes 2·K − 1
evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from fedfm import capabilities
from fedfm.params import Params, add
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.folding import RoundFold
from fedfm.protocols.ingredients import Ingredients
from fedfm.protocols.io import IO, Ask
from fedfm.wire import TUNABLE


class GreedySoup(Protocol):
    """Star in which the server keeps those clients that improve the mean on its validation set (model soups)."""

    kind: Literal["greedy-soup"] = "greedy-soup"
    """A star in which the server keeps those clients that improve the mean on its validation set (model soups,
    arXiv:2203.05482)."""

    judges: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "the server averages updates of one tunable",
        capabilities.ONE_MODEL: "the server evaluates the models of the clients",
        capabilities.INDIVIDUAL_UPDATES: "the server evaluates the models of the clients",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.MODEL_CHANGES: "a mean is evaluated on the frozen weights that there are"
    }

    def folds(self, cohort: int) -> tuple[int, str] | None:
        """A soup may have one client."""
        return 1, "protocol.kind"

    def step(self, state: State, io: IO) -> State:
        """Ask, keep the updates, choose, fold those that were chosen."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        ask = Ask(number, state.params, io.algorithm.sends(state.server), learning_rate=io.learning_rate(number))
        found = Ingredients()
        for update in io.ask(dict.fromkeys(cohort, ask), copies=cohort):
            found.add(update)
        if not found:  # a Poisson cohort may be empty
            return State(number, state.params, state.server, state.facts)
        chosen = _chosen(found, state.params, number, io)
        fold = RoundFold(io, state.params, number)
        for client in chosen:
            fold.add(found[client])
        params, server = fold.server_step(state.params, state.server)
        return State(number, params, server, {"kept": len(chosen), "left_out": len(found) - len(chosen)})

    def figures(self, state: State) -> dict[str, float]:
        """How many clients of the last round were kept, and how many were not."""
        return {name: float(value) for name, value in state.facts.items()}


def _chosen(found: Ingredients, params: Params, number: int, io: IO) -> list[str]:
    """The clients of the soup, in the order of ``found``."""
    scores = {client: io.judge(_mean([client], found, params, number, io)) for client in found}
    first, *others = sorted(found, key=lambda client: scores[client], reverse=True)
    chosen, best = {first}, scores[first][0]
    for client in others:
        together = [other for other in found if other in chosen or other == client]
        score, *_ = io.judge(_mean(together, found, params, number, io))
        if score >= best:
            chosen.add(client)
            best = score
        else:
            io.note("left out", client, "with its update, the mean is worse on data.validation")
    return [client for client in found if client in chosen]


def _mean(clients: Sequence[str], found: Ingredients, params: Params, number: int, io: IO) -> Params:
    """The tunable with the mean of some clients' updates."""
    fold = io.rule.in_round(number).begin(io.spec, params, seed=io.seed, round=number)
    for client in clients:
        update = found[client]
        fold.add(update.groups[TUNABLE], update.contribution, update.slices)
    return add(params, fold.result())
