"""Star: a server asks a cohort and waits for it. One round of Algorithm 1 of McMahan et al., arXiv:1602.05629."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from fedfm import capabilities
from fedfm.privacy import PRIVACY
from fedfm.protocols.base import Protocol, State
from fedfm.protocols.calibrated import record_norms
from fedfm.protocols.choosing import asks_for
from fedfm.protocols.io import IO, Ask, ClientUpdate
from fedfm.protocols.private_mean import private_mean
from fedfm.protocols.scoring import ScoredFold
from fedfm.settings import Capabilities


class Star(Protocol):
    """Synchronous rounds between one server and its clients."""

    kind: Literal["star"] = "star"
    """Synchronous rounds between one server and its clients."""
    norms: bool = False
    """Record the norm of each tensor of every update in `metrics.jsonl`, for `fedfm forget --how calibrated`."""

    gives: ClassVar[frozenset[str]] = frozenset(
        {capabilities.CHOSEN_PARTS, capabilities.ROUND_SUM, capabilities.SUBSETS}
    )
    needs: ClassVar[Mapping[str, str]] = {capabilities.ONE_BACKBONE: "the server adds up updates of one tunable"}

    def capabilities(self) -> Capabilities:
        """Also what norms rely on."""
        said = super().capabilities()
        why = "it records the norms of each update (protocol.norms)"
        needs = {**said.needs, capabilities.INDIVIDUAL_UPDATES: why} if self.norms else said.needs
        return Capabilities(needs, said.gives, said.takes)

    def step(self, state: State, io: IO) -> State:
        """Sample, choose, ask, fold, step."""
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
        if not fold:  # as a Poisson cohort may be
            return State(number, state.params, state.server, facts)
        params, server = fold.server_step(state.params, state.server)
        return State(number, params, {**server, **private}, facts)
