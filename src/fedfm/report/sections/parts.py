"""What several sections are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Fact:
    """A figure, what it is, and what to know about it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing with the words above it."""

    title: str
    image: Markup


@dataclass(frozen=True)
class LegendKey:
    """An entry of a legend: the CSS variable of a colour, or ``dashed``, and what it stands for."""

    colour: str
    text: str


@dataclass(frozen=True)
class Table:
    """Words in rows and columns; every row is as long as ``columns``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
