"""Star: a server asks a cohort and waits for it. One round of Algorithm 1 of McMahan et al., arXiv:1602.05629.

With `server_steps` two phases alternate: clients train on their private data, then the server on data of its own
(Yu, Muñoz, Jannesari, Federated Foundation Models, arXiv:2305.11414, §2, of pre-training).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedfm import capabilities
from fedfm.params import add
from fedfm.privacy import PRIVACY
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.calibrated import record_norms
from fedfm.protocols.choosing import asks_for
from fedfm.protocols.io import IO, Ask, ClientUpdate
from fedfm.protocols.private_mean import private_mean
from fedfm.protocols.scoring import ScoredFold
from fedfm.protocols.task_ends import after_task
from fedfm.settings import Capabilities


class Star(Protocol):
    """Synchronous rounds between one server and its clients."""

    kind: Literal["star"] = "star"
    """Synchronous rounds between one server and its clients."""
    norms: bool = False
    """Record the norm of each tensor of every update in `metrics.jsonl`, for `fedfm forget --how calibrated`."""
    server_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps that the server takes on `data.root` at the end of each round, as `local` says; 0: none."""

    gives: ClassVar[frozenset[str]] = frozenset(
        {capabilities.CHOSEN_PARTS, capabilities.ROUND_SUM, capabilities.SUBSETS, capabilities.TASK_ENDS}
    )
    needs: ClassVar[Mapping[str, str]] = {capabilities.ONE_BACKBONE: "the server adds up updates of one tunable"}

    @property
    def trains_root(self) -> bool:
        """Whether the server takes steps of its own."""
        return self.server_steps > 0

    def capabilities(self) -> Capabilities:
        """Also what norms and the server's own steps rely on."""
        said, needs = super().capabilities(), dict[str, str]()
        if self.norms:
            needs[capabilities.INDIVIDUAL_UPDATES] = "it records the norms of each update (protocol.norms)"
        if self.server_steps:
            whole = (capabilities.WEIGHT_MATRICES, capabilities.WHOLE_VIEWS, capabilities.BACKBONE_WEIGHTS)
            needs |= dict.fromkeys(whole, "the server trains the whole model (protocol.server_steps)")
        return Capabilities({**said.needs, **needs}, said.gives, said.takes)

    def step(self, state: State, io: IO) -> State:
        """Sample, choose, ask, fold, step; then the server's own steps."""
        number = state.round + 1
        cohort = io.cohort(number)
        ask = Ask(number, state.params, io.algorithm.sends(state.server), learning_rate=io.learning_rate(number))
        asks, facts = asks_for(ask, cohort, state.facts, io)
        updates: Iterable[ClientUpdate] = [io.total(ask, cohort)] if io.sums_only else io.ask(asks, copies=cohort)
        private = {}
        if (release := io.release(number, state.server.get(PRIVACY, {}))) is not None:
            mean, private[PRIVACY] = private_mean(release, updates)
            updates = [mean]
        fold = ScoredFold(io, state.params, number)
        for update in updates:
            fold.add(update)
            if self.norms:
                record_norms(update, io)
        params, server = state.params, state.server
        if fold:  # a Poisson cohort may be empty
            params, server = fold.server_step(state.params, state.server)
        if self.server_steps:
            params = add(params, io.root_update(params, number, steps=self.server_steps))
        server = after_task(number, params, server, asks, io)
        return State(number, params, {**server, **private}, facts)
