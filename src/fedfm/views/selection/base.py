"""What a selection is: the server chooses, round by round, which tensors each client trains and returns.

The choice travels with the message to the client, so that both ends compute the same part (`fedfm.views.chosen`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from fedfm.settings import Settings
from fedfm.spec import Spec

PROBE = "probe"
"""The kind of work that measures the layers of the tunable, and the group of its answer."""

GRADIENT, SNR = "gradient", "snr"
"""Tensors of that group, each ``[L]``: ‖g_l‖², and the signal-to-noise ratio of the gradient."""


@dataclass(frozen=True)
class TunableLayers:
    """The layers (blocks) of a model in the order of computation, and what of the tunable is in each.

    Attributes:
        names: of the layers that have trained parameters, L of them.
        tensors: names of each layer's trained parameters.
        beside: names of trained parameters behind or beside the layers, such as those of the head.
        trained: number of each layer's trained parameters.
        total: number of all of its parameters.
        kept: values a token that its linear layers keep for the backward pass.
        tokens: of one batch.
        moments: values that the local optimiser keeps for each trained parameter.
    """

    names: tuple[str, ...]
    tensors: tuple[tuple[str, ...], ...]
    beside: tuple[str, ...]
    trained: tuple[int, ...]
    total: tuple[int, ...]
    kept: tuple[int, ...]
    tokens: int = 0
    moments: int = 0

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Probing:
    """What a client measures when it is asked for the work ``probe``.

    Attributes:
        batches: batches of local training over which it measures.
        snr: whether it also measures the signal-to-noise ratio.
    """

    batches: int = 1
    snr: bool = False


@dataclass(frozen=True)
class Measured:
    """What the server knows of one client.

    Attributes:
        round: in which the client measured; 0: it was not asked.
        examples: its training examples.
        figures: name of a tensor of group ``probe`` → its values, one a layer.
    """

    round: int
    examples: int
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """What a choice is made from.

    Attributes:
        layers: of the tunable.
        clients: of the round, in sorted order.
        params: the tunable w_t.
        seed: the run's seed.
        round: 1-based round.
    """

    layers: TunableLayers
    clients: Mapping[str, Measured]
    params: Mapping[str, Tensor]
    seed: int
    round: int


@dataclass(frozen=True)
class Selected:
    """A choice.

    Attributes:
        held: client id → names of the tensors that it trains and returns.
        figures: of the choice, as a line of metrics.jsonl has them.
    """

    held: Mapping[str, tuple[str, ...]]
    figures: Mapping[str, Any] = field(default_factory=dict)


class Selection(Settings):
    """Which part of the tunable each client trains in a round, as the server chooses it."""

    kind: str

    chooses: ClassVar[bool] = False
    """Whether the server sends a choice with each message."""

    @property
    def probing(self) -> Probing | None:
        """What clients measure for the choice; None: they are not asked."""
        return None

    @property
    def works(self) -> tuple[str, ...]:
        """Kinds of work that clients are asked for, besides those of the protocol."""
        return () if self.probing is None else (PROBE,)

    def is_stale(self, measured: int, round: int) -> bool:  # noqa: A002 - the field's word
        """Whether what a client measured in one round is too old for another."""
        return True

    def returns(self, layers: TunableLayers) -> Mapping[str, Spec]:
        """Groups of an answer to the work ``probe``."""
        return {}

    def check(self, layers: TunableLayers, clients: Sequence[str], seed: int) -> None:
        """Checks the settings against a model.

        Raises:
            RecipeError: they do not fit it.
        """

    def planned(self, layers: TunableLayers, client: str, seed: int) -> tuple[str, ...] | None:
        """A choice as large as a client's are, for plans; None: everything."""
        return None

    def choose(self, at: Situation) -> Selected:
        """The choice for a round."""
        raise NotImplementedError


class NoSelection(Selection):
    """Every client trains the whole tunable, or the part that another key gives it."""

    kind: Literal["none"] = "none"
    """Every client trains the whole tunable, or the part that another key gives it."""
