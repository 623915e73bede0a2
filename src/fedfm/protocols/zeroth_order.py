"""What protocols have in common whose clients send slopes of their losses in place of a tunable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedfm import capabilities
from fedfm.protocols.base import Protocol
from fedfm.protocols.io import IO, ClientUpdate
from fedfm.spec import Spec


class ZerothOrder(Protocol):
    """Clients compare losses along directions that all know; only scalars travel."""

    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """ε: how far the model is moved along a direction to measure the slope of the loss."""

    needs: ClassVar[Mapping[str, str]] = {
        capabilities.ONE_BACKBONE: "all devices walk from the same values along the same directions",
        capabilities.WHOLE_VIEWS: "a direction has a sign for every coordinate of the tunable",
    }
    takes: ClassVar[Mapping[str, str]] = {
        capabilities.GRADIENTS: "clients only compare losses",
        capabilities.TUNABLE_UPDATES: "clients send slopes",
        capabilities.UPDATE_PATH: "clients send slopes",
        capabilities.SERVER_STEP: "the server's step goes along the clients' directions",
    }


class ScalarFold:
    """Folds the scalars of a round by the recipe's rule."""

    def __init__(self, io: IO, spec: Spec, before: Mapping[str, Tensor]) -> None:
        """An empty fold.

        Args:
            io: of the round.
            spec: of an answer's group.
            before: zeros with this spec; rules that act on values after training get them as those before.
        """
        self._io, self._spec = io, spec
        self._fold, self._updates = io.rule.start(spec, before), 0

    def add(self, update: ClientUpdate, group: str) -> None:
        """Folds in the scalars of one client."""
        self._fold.add(update.groups[group], update.contribution, dict.fromkeys(self._spec, ()))
        self._updates += update.contribution.copies

    def result(self) -> Mapping[str, Tensor] | None:
        """The aggregate; None where nobody was asked, as a Poisson cohort may be empty.

        Raises:
            TooFewClientsError: the rule needs more updates.
        """
        if not self._updates:
            return None
        self._io.require_updates(self._updates)
        found = self._fold.result()
        for client, reason in self._fold.notes().items():
            self._io.note("left out", client, reason)
        return found
