"""What an algorithm does at a client: elementwise in each step, on named tensors before and after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from fedfm.params import Params
from fedfm.tasks.base import Batch

Groups = Mapping[str, Params]
"""Named groups of tensors; those of an algorithm have the names and shapes of the tunable's."""

Teacher = Literal["none", "received", "own", "sent"]
"""The outputs that a loss compares with: none, those of the received tunable, of the client's own group ``tunable``, or
of the group `TEACHER` that the server sends beside the tunable."""

TEACHER = "teacher"
"""Group of a message: a tunable to learn from; zeros where there is none yet."""


@dataclass(frozen=True)
class LocalResult:
    """What local training did.

    Attributes:
        steps: optimiser steps.
        samples: examples that they processed.
        predictions: what was predicted in them: examples of a classification, tokens of language modelling.
        loss: mean training loss a prediction; not finite when training diverged, or when nothing was predicted.
        moments: what the local optimiser keeps for the next round, by group; empty where it starts afresh.
    """

    steps: int
    samples: int
    predictions: int
    loss: float
    moments: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class At:
    """Where a step is taken, for one tensor of one client ``[...]`` or for rows of K clients ``[K, ...]``.

    Attributes:
        received: the value that the server sent this round, w_t.
        sent: what the algorithm sent beside it, by group.
        own: what the client kept, by group.
        step: 0-based local step.
        lr: learning rate of the local optimiser, η.
    """

    received: Tensor
    sent: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    step: int = 0
    lr: float = 0.0


@dataclass(frozen=True)
class ClientRound:
    """One client's round, on named tensors.

    Attributes:
        received: the tunable w_t as the client got it.
        sent: what the algorithm sent beside it, by group.
        own: what the client kept from its last round, by group.
        lr: learning rate of the local optimiser in this round, η.
        personal: names of tensors that each client has for itself; the algorithm's `gradient` does not act on them, as
            the server has no values there with which they could be compared.
        moments: what the local optimiser kept from the client's last round, by group.
        begin: the tunable from which local steps start, where that is not ``received``; else empty.
    """

    received: Params
    sent: Groups
    own: Groups
    lr: float
    personal: frozenset[str] = frozenset()
    moments: Groups = field(default_factory=dict)
    begin: Params = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """The result of a client's round.

    Attributes:
        update: w_c − w_t, as it is sent.
        extras: what is sent beside it, by group.
        own: what the client keeps for its next round, by group.
    """

    update: Params
    extras: Groups = field(default_factory=dict)
    own: Groups = field(default_factory=dict)


class LocalRule(Protocol):
    """The client's side of an algorithm, as `fedfm.algorithms.Algorithm` defines it."""

    @property
    def sent(self) -> tuple[str, ...]:
        """Groups that the server sends beside the tunable."""
        ...

    @property
    def returned(self) -> tuple[str, ...]:
        """Groups that the client sends beside its update."""
        ...

    @property
    def teacher(self) -> Teacher:
        """Whose outputs `loss` gets."""
        ...

    @property
    def extra_loss(self) -> bool:
        """Whether `loss` adds anything."""
        ...

    @property
    def personal_rule(self) -> LocalRule | None:
        """How a client trains a copy of the tunable that it keeps for itself; None: it has no copy."""
        ...

    @property
    def penalises(self) -> bool:
        """Whether `penalty` adds anything."""
        ...

    def client_start(self, params: Params) -> Groups:
        """What a client keeps before its first round."""
        ...

    def gradient(self, gradient: Tensor, parameter: Tensor, at: At) -> Tensor:
        """The gradient to step along."""
        ...

    def loss(self, outputs: Tensor, batch: Batch, teacher: Tensor | None) -> Tensor:
        """An extra term of each example's loss."""
        ...

    def penalty(self, parameters: Mapping[str, Tensor], trains: Params) -> Tensor:
        """An extra term of a step's loss that depends on the tunable alone."""
        ...

    def client_finish(self, update: Params, at: ClientRound, result: LocalResult) -> Finished:
        """What a client sends and keeps after its local steps."""
        ...
