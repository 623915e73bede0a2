"""Elements that several sections use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Fact:
    """A figure with its name and a note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart with its title."""

    title: str
    image: Markup


@dataclass(frozen=True)
class LegendKey:
    """An entry of a legend: the CSS variable of a colour, or ``dashed``, and its meaning."""

    colour: str
    text: str


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns; every row is as long as ``columns``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
