"""DeComFL: zeroth-order training whose messages do not grow with the model, in either direction.

Li et al., Achieving Dimension-Free Communication in Federated Learning via Zeroth-Order Optimization,
arXiv:2405.15861, Algorithms 1 to 3. A round has K local steps with P directions each, which all devices know. A client
returns the slope of its loss along each (work ``slopes``). The server takes their mean and steps,

    w_{t+1} = w_t − Σ_{k,p} c_{k,p}·z_{k,p},   c_{k,p} = η_t/P · Σ_i (n_i/n)·g_{i,k,p}

and keeps the lengths c of all rounds. A client that takes part again gets the lengths of the rounds that it has missed
and replays them. Clients keep the lengths (K·P floats a round) and not the model: they walk from w_0, and a worker
keeps the last walk on disk. The paper averages uniformly, which is `aggregate: {rule: mean, weights: uniform}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedfm import capabilities
from fedfm.algorithms import Algorithm
from fedfm.clients.directions import Leg, direction_base, walk
from fedfm.clients.finite_differences import EPSILON
from fedfm.clients.work.slopes import (
    CENTRAL,
    HISTORY,
    LENGTHS,
    MEASURE_SLOPES,
    MEASURED,
    PERTURBATIONS,
    STEPS,
    VALUES,
)
from fedfm.params import Params
from fedfm.protocols.base import State
from fedfm.protocols.io import IO, Ask
from fedfm.protocols.zeroth_order import ScalarFold, ZerothOrder
from fedfm.spec import Spec, TensorSpec


class DeComFL(ZerothOrder):
    """Clients measure slopes of their losses along directions of the round, and replay the rounds that they missed."""

    kind: Literal["decomfl"] = "decomfl"
    """Clients measure slopes of their losses along directions of the round, and replay the rounds that they missed
    (DeComFL, arXiv:2405.15861)."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 1
    """K: local steps a round, one batch each, in place of `local.epochs` and `local.max_steps`."""
    perturbations: Annotated[int, Field(ge=1, le=1000)] = 10
    """P: directions of a step."""
    difference: Literal["forward", "central"] = "forward"
    """How a slope is measured: `forward` needs P + 1 losses a step and is biased, `central` needs 2·P."""

    works: ClassVar[tuple[str, ...]] = (MEASURE_SLOPES,)
    needs: ClassVar[Mapping[str, str]] = {
        **ZerothOrder.needs,
        capabilities.STATEFUL_CLIENTS: "clients keep the steps of the rounds that they have replayed",
    }

    def sends(self, work: str) -> Mapping[str, Spec]:
        """The lengths of one round; a client that was absent gets those of each round that it missed."""
        return {HISTORY: {LENGTHS: TensorSpec((1, self.steps, self.perturbations))}}

    def returns(self, work: str, classes: int) -> Mapping[str, Spec]:
        """A slope along each direction."""
        return {MEASURED: {VALUES: TensorSpec((self.steps, self.perturbations))}}

    def start(self, params: Params, algorithm: Algorithm) -> State:
        """No steps yet, and no client has replayed any."""
        nothing = torch.zeros(0, self.steps, self.perturbations)
        return State(0, params, {HISTORY: {LENGTHS: nothing}}, {})

    def step(self, state: State, io: IO) -> State:
        """Send each client what it has missed, fold the slopes, step."""
        number, cohort, history = state.round + 1, io.cohort(state.round + 1), state.server[HISTORY][LENGTHS]
        expects, rate = self.returns(MEASURE_SLOPES, 0), io.learning_rate(number)
        replayed = dict(state.facts)
        asks = {known: self._ask(number, history[known:], rate) for known in {replayed.get(c, 0) for c in cohort}}
        fold = ScalarFold(io, expects[MEASURED], {VALUES: torch.zeros(self.steps, self.perturbations)})
        for update in io.ask({client: asks[replayed.get(client, 0)] for client in cohort}, copies=cohort):
            fold.add(update, MEASURED)
            replayed[update.client] = len(history)
        folded = fold.result()
        lengths = torch.zeros(self.steps, self.perturbations)
        params = state.params
        if folded is not None:
            lengths = (rate / self.perturbations * folded[VALUES].double()).float()
            params = dict(walk(params, [Leg(direction_base(io.seed, round=number), lengths.flatten())]))
        server = {HISTORY: {LENGTHS: torch.cat([history, lengths[None]])}}
        return State(number, params, server, replayed)

    def _ask(self, number: int, missed: torch.Tensor, rate: float) -> Ask:
        """What clients are asked that lack the same rounds."""
        facts = {
            EPSILON: self.epsilon,
            STEPS: float(self.steps),
            PERTURBATIONS: float(self.perturbations),
            CENTRAL: float(self.difference == "central"),
        }
        groups = {HISTORY: {LENGTHS: missed.contiguous()}} if len(missed) else {}
        expects = self.returns(MEASURE_SLOPES, 0)
        return Ask(number, {}, groups=groups, work=MEASURE_SLOPES, learning_rate=rate, expects=expects, facts=facts)
