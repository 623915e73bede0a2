"""How the data is split among clients, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedfm.records import units
from fedfm.records.jsonl import Record
from fedfm.report.charts import shorten
from fedfm.report.split import SplitRow, describe, label_counts, legend_labels, split_facts, split_table
from fedfm.report.svg import CATEGORIES

SHOWN = 24
"""Rows of the table: the largest clients, and where there are more, the smallest."""

WIDTH = 32
"""Characters of a client's bar."""


def render_split(clients: Sequence[Record]) -> Group:
    """Facts, legend, and a bar for each client, the largest first."""
    rows = split_table(clients)
    facts = split_facts(rows)
    legend = legend_labels(facts.labels)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("client", overflow="ellipsis", max_width=28)
    table.add_column("examples", justify="right")
    table.add_column("", no_wrap=True)
    if legend:
        table.add_column("most frequent label", overflow="ellipsis", max_width=32)
    shown = rows if len(rows) <= SHOWN else [*rows[: SHOWN // 2], *rows[-SHOWN // 2 :]]
    for index, row in enumerate(shown):
        if len(rows) > SHOWN and index == SHOWN // 2:
            table.add_row(Text(f"… {units.number(len(rows) - SHOWN)} more", style="dim"))
        top = [f"{row.top[0]} {100 * row.top[1]:.0f} %" if row.top else units.DASH] if legend else []
        table.add_row(Text(row.client), units.number(row.examples), _bar(row, legend, facts.largest), *map(Text, top))
    return Group(*map(Text, describe(facts)), *([_legend(legend)] if legend else []), table)


def _bar(row: SplitRow, legend: Sequence[str], largest: int) -> Text:
    """A client's examples as a bar, coloured by label."""
    counts = label_counts([row], legend)[:, 0] if legend else np.array([float(row.examples)])
    edges = np.rint(np.cumsum(counts) / max(largest, 1) * WIDTH).astype(int)
    bar = Text()
    for colour, start, stop in zip(CATEGORIES, [0, *edges[:-1]], edges, strict=False):
        bar.append("█" * int(stop - start), style=colour)
    return bar


def _legend(legend: Sequence[str]) -> Text:
    line = Text()
    for colour, label in zip(CATEGORIES, legend, strict=False):
        line.append("█ ", style=colour).append(f"{shorten(label, 28)}   ")
    return line
