"""Chosen tensors: what the server chose for a client's round, and sent with its message.

The client gets the whole tunable, which its forward pass needs, and trains and returns the chosen tensors only. A
message without a choice, such as one that asks for a measurement, is about the whole tunable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from fedfm.spec import Spec
from fedfm.views.base import Slices, View, whole

MASK = "tensors"
"""Bool ``[T]``: whether each tensor of the tunable, in the order of their names, is chosen."""


@dataclass(frozen=True)
class ChosenParts(View):
    """Which tensors the client trains.

    Attributes:
        mask: as `MASK`; None: all of them.
    """

    mask: Tensor | None = None

    @classmethod
    def of(cls, recipe: Any) -> Self | None:
        """The view of a recipe whose `select` chooses parts."""
        select = getattr(recipe, "select", None)
        return cls() if select is not None and select.chooses else None

    def under(self, choice: Mapping[str, Tensor], spec: Spec) -> Self:
        """The tensors of a choice.

        Raises:
            ValueError: it does not fit the tunable.
        """
        mask = choice.get(MASK)
        if mask is None:
            raise ValueError(f"the choice has no tensor `{MASK}`")
        if mask.dtype != torch.bool or mask.shape != (len(spec),):
            raise ValueError(f"`{MASK}` must be {len(spec)} truth values, one for each tensor")
        return replace(self, mask=mask)

    def gets(self, spec: Spec, client: str, number: int) -> Slices:
        """All of it."""
        return whole(spec)

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """Chosen tensors, whole."""
        if self.mask is None:
            return whole(spec)
        return {name: () for name, chosen in zip(sorted(spec), self.mask.tolist(), strict=True) if chosen}


def choice_of(names: Collection[str], spec: Spec) -> dict[str, Tensor]:
    """The choice that makes a client train the tensors of some names."""
    return {MASK: torch.tensor([name in names for name in sorted(spec)], dtype=torch.bool)}
