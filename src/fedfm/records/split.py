"""How data is split among clients: figures, a picture, and a rendering for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fedfm.errors import RecipeError
from fedfm.printable import records
from fedfm.records import charts, disk, svg, units
from fedfm.records.jsonl import Record
from fedfm.records.svg import CATEGORIES

SHOWN = 24
"""Rows of the terminal's table: the largest clients, and where there are more, the smallest."""

DRAWN = 400
"""Clients of a picture."""

WIDTH = 32
"""Characters of a client's bar in the terminal."""

ENDINGS = (".png", ".svg", ".pdf")

OTHER = "other labels"


@dataclass(frozen=True)
class SplitRow:
    """One client's part of the data.

    Attributes:
        client: its id.
        examples: it trains on.
        holdout: it keeps for its own evaluation.
        labels: examples by label; None where examples have no label.
    """

    client: str
    examples: int
    holdout: int
    labels: dict[str, int] | None

    @property
    def top(self) -> tuple[str, float] | None:
        """Its most frequent label and that label's share of its examples, 0 to 1."""
        if not self.labels or not sum(self.labels.values()):
            return None
        label = max(self.labels, key=self.labels.__getitem__)
        return label, self.labels[label] / sum(self.labels.values())


@dataclass(frozen=True)
class SplitFacts:
    """A split in a few figures.

    Attributes:
        clients: how many.
        examples: of all clients together.
        smallest: examples of the smallest client.
        median: of the middle one.
        largest: of the largest.
        labels: every label, the most frequent first; empty where examples have none.
        skew: mean total variation distance between a client's labels and everybody's, 0 (all alike) to 1;
            None without labels.
        dominated: clients with more than 90 % of one label; None without labels.
    """

    clients: int
    examples: int
    smallest: int
    median: float
    largest: int
    labels: tuple[str, ...]
    skew: float | None
    dominated: int | None


def split_table(clients: Sequence[Record]) -> list[SplitRow]:
    """The records of clients.json as rows, the largest client first."""
    shown = map(records, clients)  # names and labels are the data's
    rows = [SplitRow(c["id"], c["examples"], c.get("holdout") or 0, c.get("labels")) for c in shown]
    return sorted(rows, key=lambda row: (-row.examples, row.client))


def split_facts(rows: Sequence[SplitRow]) -> SplitFacts:
    """Sizes and label skew of a split with at least one client."""
    sizes = [row.examples for row in rows]
    labels = _labels(rows)
    skew = dominated = None
    if labels:
        counts = _counts(rows, labels)
        shares = counts[:, counts.sum(axis=0) > 0]
        shares = shares / shares.sum(axis=0)
        everybody = counts.sum(axis=1, keepdims=True) / counts.sum()
        skew = float(np.abs(shares - everybody).sum(axis=0).mean() / 2)
        dominated = int((shares.max(axis=0) > 0.9).sum())
    return SplitFacts(
        len(rows), sum(sizes), min(sizes), float(np.median(sizes)), max(sizes), tuple(labels), skew, dominated
    )


def draw_split(rows: Sequence[SplitRow]) -> charts.Draw:
    """Clients × labels, or sizes alone.

    A few clients stand in their order, with names. Many stand ordered so that like is beside like; of more than
    `DRAWN`, as many are drawn, evenly spaced in that order.
    """
    legend, total = legend_labels(split_facts(rows).labels), len(rows)
    below = f"{units.number(total)} clients"
    if total > charts.FEW and legend:
        rank = {label: index for index, label in enumerate(legend)}
        rows = sorted(rows, key=lambda row: _likeness(row, rank))
    if total > DRAWN:
        rows = [rows[int(index)] for index in np.linspace(0, total - 1, DRAWN)]
        below += f", {DRAWN} of them drawn"
    counts = _counts(rows, legend) if legend else np.array([[row.examples for row in rows]], dtype=np.float64)
    return charts.stacked_labels(counts, [row.client for row in rows], below=below)


def legend_labels(labels: Sequence[str]) -> list[str]:
    """The labels that have a colour of their own, and one name for all others."""
    if len(labels) <= len(CATEGORIES):
        return list(labels)
    return [*labels[: len(CATEGORIES) - 1], OTHER]


def plot_split(clients: Sequence[Record], path: Path) -> Path:
    """Saves the picture of a split; the ending of ``path`` says how.

    Raises:
        RecipeError: an ending that is none of `ENDINGS`.
        StorageError: it cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise RecipeError(f"cannot draw to {path}: end its name in {', '.join(ENDINGS)}", source="plot")
    rows = split_table(clients)
    legend = legend_labels(split_facts(rows).labels)

    def draw(axes: Axes) -> None:
        draw_split(rows)(axes)
        for colour, label in zip(CATEGORIES, legend, strict=False):
            axes.scatter([], [], marker="s", s=36, color=colour, label=charts.shorten(label, 28))
        if legend:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), handletextpad=0.3)

    height = max(2.6, charts.bars_height(len(rows))) if len(rows) <= charts.FEW else 3.6
    with svg.style(), disk.storage(path, "write"):
        svg.figure(draw, width=8, height=height).savefig(path, dpi=160)
    return path


def render_split(clients: Sequence[Record]) -> Group:
    """A split for the terminal: facts, legend, and a bar for each client, the largest first."""
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


def describe(facts: SplitFacts) -> list[str]:
    """The facts in sentences."""
    sentences = [f"{units.number(facts.examples)} examples over {_clients(facts.clients)}: {_sizes(facts)}."]
    if facts.skew is not None and facts.dominated is not None:
        sentences.append(
            f"{len(facts.labels)} labels; label skew {facts.skew:.2f} (0: all clients alike, 1: nothing in common); "
            f"{units.number(facts.dominated)} of {_clients(facts.clients)} with over 90 % of one label."
        )
    return sentences


def _clients(count: int) -> str:
    return f"{units.number(count)} client{'s' * (count != 1)}"


def _sizes(facts: SplitFacts) -> str:
    if facts.smallest == facts.largest:
        return f"{units.number(facts.smallest)} each"
    return f"{units.number(facts.smallest)} to {units.number(facts.largest)} each, median {units.number(facts.median)}"


def _bar(row: SplitRow, legend: Sequence[str], largest: int) -> Text:
    """A client's examples as a bar, coloured by label."""
    counts = _counts([row], legend)[:, 0] if legend else np.array([float(row.examples)])
    edges = np.rint(np.cumsum(counts) / max(largest, 1) * WIDTH).astype(int)
    bar = Text()
    for colour, start, stop in zip(CATEGORIES, [0, *edges[:-1]], edges, strict=False):
        bar.append("█" * int(stop - start), style=colour)
    return bar


def _legend(legend: Sequence[str]) -> Text:
    line = Text()
    for colour, label in zip(CATEGORIES, legend, strict=False):
        line.append("█ ", style=colour).append(f"{charts.shorten(label, 28)}   ")
    return line


def _labels(rows: Sequence[SplitRow]) -> list[str]:
    """All labels, the most frequent first."""
    totals: dict[str, int] = {}
    for row in rows:
        for label, count in (row.labels or {}).items():
            totals[label] = totals.get(label, 0) + count
    return sorted(totals, key=lambda label: -totals[label])


def _counts(rows: Sequence[SplitRow], legend: Sequence[str]) -> np.ndarray:
    """Examples by label of the legend and client, ``[labels, clients]``; labels it does not name count as its last."""
    rank = {label: index for index, label in enumerate(legend)}
    counts = np.zeros((len(legend), len(rows)))
    for column, row in enumerate(rows):
        for label, count in (row.labels or {}).items():
            counts[rank.get(label, len(legend) - 1), column] += count
    return counts


def _likeness(row: SplitRow, rank: dict[str, int]) -> tuple[int, int]:
    """Orders clients by their most frequent label, then by size."""
    return rank.get(row.top[0], len(rank)) if row.top else len(rank), -row.examples
