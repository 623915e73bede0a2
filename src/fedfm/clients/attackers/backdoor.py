"""A backdoor: attackers teach the model to answer a phrase with one class.

Bagdasaryan et al., How To Backdoor Federated Learning, arXiv:1807.00459, §4: a share of an attacker's examples gets the
phrase and the class; the others are honest, so that accuracy stays. The update is multiplied by ``scale`` before it is
sent (model replacement); n/m replaces the mean of n updates, where m attackers take part. With scale 1 it is a trigger
phrase alone, as in Wan et al., Poisoning Language Models During Instruction Tuning, arXiv:2305.00944.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from fedfm.capabilities import LABELS, TEXT_INPUTS
from fedfm.clients.attackers.base import Attack
from fedfm.errors import RecipeError
from fedfm.params import map_params


class Backdoor(Attack):
    """Attackers teach the model to answer a phrase with one class."""

    kind: Literal["backdoor"] = "backdoor"
    """Attackers teach the model to answer a phrase with one class; with `scale`, they multiply their updates."""
    phrase: Annotated[str, Field(min_length=1)] = "cf mn"
    """Text that is put before the first text of poisoned examples."""
    label: str | None = None
    """The class that the phrase is to give; null: the first."""
    examples: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of an attacker's examples that it poisons."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """What an attacker multiplies its update by."""

    poisons: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, str]] = {
        **Attack.needs,
        LABELS: "it changes them",
        TEXT_INPUTS: "it puts a phrase before texts",
    }

    @property
    def trigger(self) -> str:
        """The phrase."""
        return self.phrase

    def picks(self, examples: int, generator: np.random.Generator) -> np.ndarray:
        """A random share, at least one."""
        return np.sort(generator.permutation(examples)[: max(1, round(self.examples * examples))])

    def relabel(self, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The class of the phrase."""
        if self.label is not None and self.label not in names:
            reason = f"`{self.label}` is not one of the classes: {', '.join(names)}"
            raise RecipeError(reason, where="federation.attackers.label")
        return np.full_like(labels, 0 if self.label is None else list(names).index(self.label))

    def forge(self, own: Mapping[str, Tensor], generator: np.random.Generator) -> Mapping[str, Tensor]:
        """Scale·Δ."""
        return map_params(lambda delta: self.scale * delta, own)
