"""What a stage of the update path is: a reversible step between an update and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from fedfm.capabilities import (
    LASTING_COORDINATES,
    LINEAR_STAGES,
    SERVER_MESSAGES,
    STATEFUL_CLIENTS,
    UPDATE_PATH,
    UPDATES_AS_SENT,
)
from fedfm.params import Params
from fedfm.settings import Capabilities, Settings
from fedfm.spec import Spec


class Stage(Settings):
    """One step of the update path; it encodes at the sender and decodes at the receiver.

    Stages run in the recipe's order at the sender and in reverse at the receiver. Each works on the groups that it
    names, one after the other; other groups pass unchanged.
    """

    kind: str
    """The stage's name."""
    direction: Literal["up", "down", "both"] = "up"
    """`up`: updates to the server; `down`: parameters to the clients."""

    groups: ClassVar[tuple[str, ...]] = ("tunable",)
    """Groups that it acts on."""
    flattens: ClassVar[bool] = False
    """Whether what it encodes no longer has the names of the tensors."""
    reads_names: ClassVar[bool] = False
    """Whether it needs the tensors under their names, and so cannot follow a stage that flattens."""
    comes_first: ClassVar[bool] = False
    """Whether it needs what the client made, as no other stage has changed it."""
    linear: ClassVar[bool] = False
    """Whether the sum of encoded updates decodes to the sum of the updates."""

    @property
    def ways(self) -> frozenset[str]:
        """The directions in which it acts, of ``up`` and ``down``."""
        return frozenset({"up", "down"} if self.direction == "both" else {self.direction})

    @property
    def stateful(self) -> bool:
        """Whether the client keeps tensors between rounds for it."""
        return False

    def capabilities(self) -> Capabilities:
        """Also what follows from `linear` and `stateful`."""
        needs = {**self.needs, UPDATE_PATH: "it encodes what clients send"}
        takes = dict(self.takes)
        if "down" in self.ways:
            needs[SERVER_MESSAGES] = "it encodes what a server sends; set `direction: up`"
        if self.stateful:
            needs |= {
                STATEFUL_CLIENTS: "clients keep tensors for it between rounds",
                LASTING_COORDINATES: "clients keep tensors for it between rounds",
                UPDATES_AS_SENT: "what a client keeps for it supposes that the server adds what it was sent",
            }
        if not self.linear:
            takes |= {LINEAR_STAGES: "the sum of encoded updates does not decode to their sum"}
        return Capabilities(needs, self.gives, takes)

    def in_round(self, seed: int) -> Stage:
        """The stage for the messages of one round; a stage whose sender and receiver must draw alike overrides it.

        Args:
            seed: keyed by run, round, group and the stage's place, and so the same at the server and at all clients.
        """
        return self

    def spec(self, spec: Spec) -> Spec:
        """What `encode` makes of tensors with ``spec``."""
        raise NotImplementedError

    def start(self, spec: Spec) -> Params:
        """What a client keeps before its first round, in full coordinates; nothing for a stage without state.

        Every tensor has the name and the shape of one of ``spec``, unless the stage needs whole views.
        """
        return {}

    def encode(
        self, params: Mapping[str, Tensor], own: Params, generator: np.random.Generator
    ) -> tuple[Params, Params]:
        """The encoded tensors, with the spec that `spec` gives, and what is kept for the next round.

        Args:
            params: what is sent.
            own: what `start` or the last round left, restricted to what is sent.
            generator: keyed by run, round, client, group and the stage's place; with the seed of `in_round` the only
                source of randomness.
        """
        raise NotImplementedError

    def decode(self, params: Mapping[str, Tensor], spec: Spec) -> Params:
        """The inverse of `encode`, exact or approximate.

        Args:
            params: as `encode` made them; their spec was verified.
            spec: of what was encoded.

        Raises:
            ValueError: the values are impossible, e.g. an index outside the tensor; the update is refused.
        """
        raise NotImplementedError

    def finish(self, aggregate: Params, cohort: int) -> Params:
        """What the server does once with the aggregate of a round of ``cohort`` clients."""
        return aggregate
