"""FedKSeed: full-parameter tuning in which a client and the server exchange K scalars.

Qin et al., Federated Full-Parameter Tuning of Billion-Sized Language Models with Communication Cost under 18
Kilobytes, arXiv:2312.06353, Algorithm 1. All devices know a pool of K directions z_1 … z_K. The model is

    w_t = w_0 − Σ_s a_s·z_s

so the server sends a_1 … a_K, each client walks there from w_0 and takes zeroth-order steps along directions of the
pool (work ``seed-pool``), and returns for each direction the sum of its slopes, b_{c,s}. The server adds their mean:

    a_s ← a_s + η_t·Σ_c (n_c/n)·b_{c,s}

This is FedAvg over the clients' walks; with a robust `aggregate.rule` it is that rule over K scalars. The paper's a_s
are sums of slopes and η is constant; here η_t is in a_s, so that it may follow `local.lr_scheduler_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from fedfm.algorithms import Algorithm
from fedfm.clients.directions import Leg, direction_base, walk
from fedfm.clients.finite_differences import EPSILON
from fedfm.clients.work.seed_pool import COEFFICIENTS, POOL, SEED_POOL, SLOPES
from fedfm.params import Params
from fedfm.protocols.base import State
from fedfm.protocols.io import IO, Ask
from fedfm.protocols.zeroth_order import ScalarFold, ZerothOrder
from fedfm.spec import Spec, TensorSpec


class FedKSeed(ZerothOrder):
    """Clients tune without gradients along K directions that all know, and send K scalars (FedKSeed)."""

    kind: Literal["fedkseed"] = "fedkseed"
    """Clients tune without gradients along K directions that all know, and send K scalars (FedKSeed,
    arXiv:2312.06353)."""
    seeds: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """K: directions in the pool, four bytes each in a message and in an answer."""

    works: ClassVar[tuple[str, ...]] = (SEED_POOL,)

    def sends(self, work: str) -> Mapping[str, Spec]:
        """A coefficient for each direction."""
        return {POOL: {COEFFICIENTS: TensorSpec((self.seeds,))}}

    def returns(self, work: str, classes: int) -> Mapping[str, Spec]:
        """The sum of the slopes along each direction."""
        return {POOL: {SLOPES: TensorSpec((self.seeds,))}}

    def start(self, params: Params, algorithm: Algorithm) -> State:
        """All a_s = 0."""
        return State(0, params, {POOL: {COEFFICIENTS: torch.zeros(self.seeds)}})

    def step(self, state: State, io: IO) -> State:
        """Ask with the coefficients, fold the slopes, walk from w₀ to the new model."""
        number, cohort = state.round + 1, io.cohort(state.round + 1)
        pool, rate, expects = state.server[POOL], io.learning_rate(number), self.returns(SEED_POOL, 0)
        facts = {EPSILON: self.epsilon}
        ask = Ask(number, {}, groups={POOL: pool}, work=SEED_POOL, learning_rate=rate, expects=expects, facts=facts)
        fold = ScalarFold(io, expects[POOL], {SLOPES: torch.zeros(self.seeds)})
        for update in io.ask(dict.fromkeys(cohort, ask), copies=cohort):
            fold.add(update, POOL)
        if (folded := fold.result()) is None:
            return State(number, state.params, state.server)
        total = (pool[COEFFICIENTS].double() + rate * folded[SLOPES].double()).float()
        params = dict(walk(io.start, [Leg(direction_base(io.seed), total)]))
        return State(number, params, {POOL: {COEFFICIENTS: total}})
