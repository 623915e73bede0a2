"""Contributions: what each client of a round added, one valuation a file. Adding one: write its file, add its row."""

from __future__ import annotations

from typing import Annotated

from fedfm.contributions.banzhaf import Banzhaf
from fedfm.contributions.base import Game, NoValuation, UtilityValuation, Valuation
from fedfm.contributions.cosine import GradientCosine
from fedfm.contributions.gtg_shapley import GtgShapley
from fedfm.contributions.leave_one_out import LeaveOneOut
from fedfm.contributions.shapley import Shapley
from fedfm.registry import Choice

CONTRIBUTIONS: dict[str, type[Valuation]] = {
    "none": NoValuation,
    "leave-one-out": LeaveOneOut,
    "shapley": Shapley,
    "gtg-shapley": GtgShapley,
    "banzhaf": Banzhaf,
    "cosine": GradientCosine,
}

AnyValuation = Annotated[Valuation, Choice(CONTRIBUTIONS, "kind", "fedfm.contributions")]

__all__ = [
    "CONTRIBUTIONS",
    "AnyValuation",
    "Banzhaf",
    "Game",
    "GradientCosine",
    "GtgShapley",
    "LeaveOneOut",
    "NoValuation",
    "Shapley",
    "UtilityValuation",
    "Valuation",
]
