"""What a valuation is: it scores what each client of a round contributed, from the round's updates alone.

Scores are those of a cooperative game. Its players are the clients of the round, and the value of a coalition S is how
good the server's model is with the updates of S alone:

    v(S) = U(w_{t+1} from S),    v(∅) = U(w_t)

U is the main metric, or minus the loss, on `data.validation`. No client trains again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from fedfm.capabilities import (
    BARRIER,
    INDIVIDUAL_UPDATES,
    MODEL_CHANGES,
    ONE_BACKBONE,
    ONE_MODEL,
    SUBSETS,
    TUNABLE_UPDATES,
)
from fedfm.params import Params
from fedfm.settings import Settings


class Game(ABC):
    """The updates of a round, and the value of each coalition of its clients."""

    def __init__(self, clients: Sequence[str], generator: np.random.Generator) -> None:
        """A game of which no coalition is evaluated yet.

        Args:
            clients: of the round, in the order in which their updates are folded.
            generator: of the valuation's random choices.
        """
        self.clients, self.generator = tuple(clients), generator
        self._values: dict[frozenset[str], float] = {}

    @property
    def evaluations(self) -> int:
        """Coalitions evaluated so far; one that is asked for again is not evaluated again."""
        return len(self._values)

    def value(self, coalition: Collection[str]) -> float:
        """v(S).

        Args:
            coalition: some clients, each once, in any order; empty: the model before the round.
        """
        members = frozenset(coalition)
        if members not in self._values:
            self._values[members] = self.evaluate(tuple(client for client in self.clients if client in members))
        return self._values[members]

    def knows(self, coalition: Collection[str]) -> bool:
        """Whether a coalition has been evaluated."""
        return frozenset(coalition) in self._values

    @property
    def change(self) -> float:
        """v(N) − v(∅): by how much the round changed the model's utility."""
        return self.value(self.clients) - self.value(())

    @abstractmethod
    def evaluate(self, coalition: Sequence[str]) -> float:
        """The utility of the model with the updates of some clients, in the order of `clients`."""

    @abstractmethod
    def update(self, client: str) -> Params:
        """Δ_i in full coordinates, zero where the client holds nothing."""

    @abstractmethod
    def aggregate(self) -> Params:
        """The aggregate Δ of all updates by the recipe's rule."""


class Valuation(Settings):
    """How the contribution of each client of a round is scored."""

    kind: str
    """How the contribution of each client of a round is scored."""

    scores_clients: ClassVar[bool] = True
    """Whether there are scores."""
    judges: ClassVar[bool] = False
    """Whether it evaluates models on `data.validation`."""
    most: ClassVar[int | None] = None
    """The most clients of a round that it can score; None: any number."""
    needs: ClassVar[Mapping[str, str]] = {
        INDIVIDUAL_UPDATES: "the update of each client is scored",
        SUBSETS: "the server compares its models with and without a client",
        TUNABLE_UPDATES: "updates of the tunable are scored",
        BARRIER: "the clients of one round are scored together",
        ONE_BACKBONE: "the server folds updates of one tunable",
    }

    def utility_of(self, judged: Sequence[float]) -> float:
        """U of a model.

        Args:
            judged: its main metric and its loss on `data.validation`, signed so that the highest is best.
        """
        raise NotImplementedError

    def scores(self, game: Game) -> dict[str, float]:
        """Client id → its score of the round, for every client of the game.

        Args:
            game: the round's updates.
        """
        raise NotImplementedError


class NoValuation(Valuation):
    """Contributions are not scored."""

    kind: Literal["none"] = "none"
    """Contributions are not scored."""

    scores_clients: ClassVar[bool] = False
    needs: ClassVar[Mapping[str, str]] = {}

    def scores(self, game: Game) -> dict[str, float]:
        """Nothing."""
        return {}


class UtilityValuation(Valuation):
    """A valuation by the utility of models."""

    utility: Literal["metric", "loss"] = "metric"
    """What counts on `data.validation`: the task's main `metric`, or `loss`, which resolves smaller differences."""

    judges: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        **Valuation.needs,
        ONE_MODEL: "the server evaluates one model for all clients",
    }
    takes: ClassVar[Mapping[str, str]] = {
        MODEL_CHANGES: "models are evaluated on the frozen weights that there are before the round"
    }

    def utility_of(self, judged: Sequence[float]) -> float:
        """The main metric, or minus the loss."""
        return judged[0] if self.utility == "metric" else judged[1]
