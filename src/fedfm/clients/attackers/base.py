"""What an attack is: what hostile clients do to their data before training, and to what they send.

Attackers obey no stage of the update path: what they send is put in where the server has decoded it, so that a `clip`
stage does not bound them. Those that collude know the round's honest updates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from fedfm.capabilities import (
    BARRIER,
    INDIVIDUAL_UPDATES,
    ONE_BACKBONE,
    SIMULATED_CLIENTS,
    TUNABLE_UPDATES,
    WHOLE_VIEWS,
)
from fedfm.clients.attackers.honest import HonestUpdates
from fedfm.params import Params
from fedfm.randomness import numpy_generator
from fedfm.settings import Capabilities, Settings


class Attack(Settings):
    """What some of the simulated clients do. A subclass overrides what its attackers do otherwise than honest ones."""

    kind: str

    colludes: ClassVar[bool] = False
    """Whether all attackers of a round send the same, made from the honest updates of the round."""
    poisons: ClassVar[bool] = False
    """Whether attackers change examples that they train on."""
    needs: ClassVar[Mapping[str, str]] = {
        SIMULATED_CLIENTS: "attackers are simulated; leave federation.attackers out",
        ONE_BACKBONE: "attackers act on one tunable",
        TUNABLE_UPDATES: "attackers change their updates",
        INDIVIDUAL_UPDATES: "attackers act on what the server decodes",
    }

    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the clients that attack whenever they take part; the seed decides who."""

    def capabilities(self) -> Capabilities:
        """Also what it relies on where attackers collude."""
        needs = dict(self.needs)
        if self.colludes:
            needs |= {
                BARRIER: "attackers wait for the honest updates of the round",
                WHOLE_VIEWS: "attackers send one update",
            }
        return Capabilities(needs, self.gives, self.takes)

    @property
    def trigger(self) -> str:
        """Text that is put before the first text of poisoned examples; empty: they keep their text."""
        return ""

    def picks(self, examples: int, generator: np.random.Generator) -> np.ndarray:
        """Positions of the examples that an attacker poisons, int64, of its ``examples``."""
        return np.arange(examples)

    def relabel(self, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The classes that poisoned examples get, int64 ``[N]``.

        Args:
            labels: their true classes, int64 ``[N]``.
            names: of the classes.

        Raises:
            RecipeError: the attack names a class that is not there.
        """
        return labels

    def forge(self, own: Mapping[str, Tensor], generator: np.random.Generator) -> Mapping[str, Tensor]:
        """What an attacker sends in place of its update.

        Args:
            own: its update, trained on what it holds.
            generator: of this client and round.
        """
        return own

    def collude(self, honest: HonestUpdates, attackers: int) -> Params:
        """What all attackers of a round send, in full coordinates; only where they collude.

        Args:
            honest: the honest updates of the round, at least one.
            attackers: how many they are.
        """
        raise NotImplementedError


def attackers_of(attack: Attack | None, clients: Iterable[str], seed: int) -> frozenset[str]:
    """Ids of the clients that attack: ``attack.share`` of all, rounded; none without an attack."""
    if attack is None:
        return frozenset()
    ordered = sorted(clients)
    drawn = numpy_generator(seed, "attackers").permutation(len(ordered))[: round(attack.share * len(ordered))]
    return frozenset(ordered[place] for place in drawn)
