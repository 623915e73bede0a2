"""Views: which part of the tunable a client holds. One kind of view, one file; adding one: its file, its row here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedfm.spec import Spec
from fedfm.views.base import (
    CHOICE,
    Anatomy,
    Slices,
    UnitAxis,
    View,
    holds,
    intersect,
    is_whole,
    narrow,
    narrow_spec,
    whole,
    widen,
)
from fedfm.views.chosen import ChosenParts, choice_of
from fedfm.views.heads import Heads
from fedfm.views.modalities import Modalities
from fedfm.views.personal import Personal
from fedfm.views.ranks import Ranks
from fedfm.views.schedule import Schedule
from fedfm.views.share import Share
from fedfm.views.task_ranks import TaskRanks
from fedfm.views.width import Width

VIEWS: dict[str, type[View]] = {
    "share": Share,
    "ranks": Ranks,
    "task-ranks": TaskRanks,
    "modalities": Modalities,
    "schedule": Schedule,
    "width": Width,
    "heads": Heads,
    "chosen": ChosenParts,
}
"""Name → kind of view; each makes itself from a recipe, where the recipe asks for it."""


@dataclass(frozen=True)
class Views:
    """All views of a recipe, which combine by intersection. Without views every client holds everything."""

    views: tuple[View, ...] = ()

    @classmethod
    def of(cls, recipe: Any) -> Views:
        """The views that a recipe asks for."""
        return cls(tuple(view for kind in VIEWS.values() if (view := kind.of(recipe)) is not None))

    @property
    def whole(self) -> bool:
        """Whether every client holds everything."""
        return not self.views

    @property
    def reads_anatomy(self) -> bool:
        """Whether one of them depends on units of the model."""
        return any(view.reads_anatomy for view in self.views)

    def on(self, anatomy: Anatomy, start: Mapping[str, Tensor]) -> Views:
        """The views with what a model decides filled in, as `View.on`."""
        return Views(tuple(view.on(anatomy, start) for view in self.views))

    def under(self, choice: Mapping[str, Tensor], spec: Spec) -> Views:
        """The views under a choice of the server; without one, as they are.

        Raises:
            ValueError: the choice does not fit, or no view depends on one.
        """
        if not choice:
            return self
        views = tuple(view.under(choice, spec) for view in self.views)
        if all(now is before for now, before in zip(views, self.views, strict=True)):
            raise ValueError("no part of the tunable is chosen by the server in this run")
        return Views(views)

    def gets(self, spec: Spec, client: str, number: int) -> Slices:
        """The part of the server's tensors that a client gets in a round."""
        found = whole(spec)
        for view in self.views:
            found = intersect(found, view.gets(spec, client, number), spec)
        return found

    def held(self, spec: Spec, client: str, number: int) -> Slices:
        """The part that it trains and returns; some of what it gets."""
        found = whole(spec)
        for view in self.views:
            found = intersect(found, view.held(spec, client, number), spec)
        return found

    def personal(self, spec: Spec) -> frozenset[str]:
        """Names of tensors that each client has for itself."""
        return frozenset[str]().union(*(view.personal(spec) for view in self.views))

    def fixed(self, spec: Spec) -> frozenset[str]:
        """Names of tensors that keep their initial values in the whole run."""
        return frozenset[str]().union(*(view.fixed(spec) for view in self.views))

    @property
    def period(self) -> int:
        """Rounds after which the parts that a client holds repeat."""
        return math.lcm(*(view.period for view in self.views))


__all__ = [
    "CHOICE",
    "VIEWS",
    "Anatomy",
    "ChosenParts",
    "Heads",
    "Modalities",
    "Personal",
    "Ranks",
    "Schedule",
    "Share",
    "Slices",
    "TaskRanks",
    "UnitAxis",
    "View",
    "Views",
    "Width",
    "choice_of",
    "holds",
    "intersect",
    "is_whole",
    "narrow",
    "narrow_spec",
    "whole",
    "widen",
]
