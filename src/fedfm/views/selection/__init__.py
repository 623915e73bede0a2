"""Selections: which part of the tunable the server lets each client train. Adding one: its file, its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.views.selection.base import (
    GRADIENT,
    PROBE,
    SNR,
    Measured,
    NoSelection,
    Probing,
    Selected,
    Selection,
    Situation,
    TunableLayers,
)
from fedfm.views.selection.layers import LayerSelection

SELECTIONS: dict[str, type[Selection]] = {
    "none": NoSelection,
    "layers": LayerSelection,
}

AnySelection = Annotated[Selection, Choice(SELECTIONS, "kind", "fedfm.selections")]

__all__ = [
    "GRADIENT",
    "PROBE",
    "SELECTIONS",
    "SNR",
    "AnySelection",
    "LayerSelection",
    "Measured",
    "NoSelection",
    "Probing",
    "Selected",
    "Selection",
    "Situation",
    "TunableLayers",
]
