"""How the data is split among clients: figures, sentences and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from fedfm.errors import RecipeError
from fedfm.printable import records
from fedfm.records import disk, units
from fedfm.records.jsonl import Record
from fedfm.report import charts, svg
from fedfm.report.svg import CATEGORIES

DRAWN = 400
"""The largest number of clients in a picture."""

ENDINGS = (".png", ".svg", ".pdf")

OTHER = "other labels"


@dataclass(frozen=True)
class SplitRow:
    """One client's part of the data.

    Attributes:
        client: its id.
        examples: number of training examples.
        holdout: examples that it holds out for evaluation.
        labels: number of examples by label; None where examples have no label.
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
        clients: number of clients.
        examples: of all clients together.
        smallest: examples of the smallest client.
        median: median number of examples of a client.
        largest: examples of the largest client.
        labels: every label, the most frequent first; empty where examples have none.
        skew: mean total variation distance between a client's labels and those of all clients, from 0 (equal) to 1;
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
        counts = label_counts(rows, labels)
        shares = counts[:, counts.sum(axis=0) > 0]
        shares = shares / shares.sum(axis=0)
        overall = counts.sum(axis=1, keepdims=True) / counts.sum()
        skew = float(np.abs(shares - overall).sum(axis=0).mean() / 2)
        dominated = int((shares.max(axis=0) > 0.9).sum())
    return SplitFacts(
        len(rows), sum(sizes), min(sizes), float(np.median(sizes)), max(sizes), tuple(labels), skew, dominated
    )


def draw_split(rows: Sequence[SplitRow]) -> charts.Draw:
    """Clients × labels, or sizes alone.

    Few clients are drawn in their order, with names. Many clients are sorted by their most frequent label and their
    size; of more than `DRAWN`, that many are drawn, evenly spaced in this order.
    """
    legend, total = legend_labels(split_facts(rows).labels), len(rows)
    below = f"{units.number(total)} clients"
    if total > charts.FEW and legend:
        rank = {label: index for index, label in enumerate(legend)}
        rows = sorted(rows, key=lambda row: _likeness(row, rank))
    if total > DRAWN:
        rows = [rows[int(index)] for index in np.linspace(0, total - 1, DRAWN)]
        below += f", {DRAWN} of them drawn"
    counts = label_counts(rows, legend) if legend else np.array([[row.examples for row in rows]], dtype=np.float64)
    return charts.stacked_labels(counts, [row.client for row in rows], below=below)


def legend_labels(labels: Sequence[str]) -> list[str]:
    """The labels that have a colour of their own, and one name for all others."""
    if len(labels) <= len(CATEGORIES):
        return list(labels)
    return [*labels[: len(CATEGORIES) - 1], OTHER]


def label_counts(rows: Sequence[SplitRow], legend: Sequence[str]) -> np.ndarray:
    """Examples by label of the legend and client, ``[labels, clients]``; labels it does not name count as its last."""
    rank = {label: index for index, label in enumerate(legend)}
    counts = np.zeros((len(legend), len(rows)))
    for column, row in enumerate(rows):
        for label, count in (row.labels or {}).items():
            counts[rank.get(label, len(legend) - 1), column] += count
    return counts


def plot_split(clients: Sequence[Record], path: Path) -> Path:
    """Saves the picture of a split in the format that the ending of ``path`` names.

    Raises:
        RecipeError: the ending is not in `ENDINGS`.
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


def describe(facts: SplitFacts) -> list[str]:
    """The facts in sentences."""
    sentences = [f"{units.number(facts.examples)} examples over {_clients(facts.clients)}: {_sizes(facts)}."]
    if facts.skew is not None and facts.dominated is not None:
        sentences.append(
            f"{len(facts.labels)} labels; label skew {facts.skew:.2f} "
            "(0: all clients have the same mix, 1: no label in common); "
            f"{units.number(facts.dominated)} of {_clients(facts.clients)} with over 90 % of one label."
        )
    return sentences


def _clients(count: int) -> str:
    return f"{units.number(count)} client{'s' * (count != 1)}"


def _sizes(facts: SplitFacts) -> str:
    if facts.smallest == facts.largest:
        return f"{units.number(facts.smallest)} each"
    return f"{units.number(facts.smallest)} to {units.number(facts.largest)} each, median {units.number(facts.median)}"


def _labels(rows: Sequence[SplitRow]) -> list[str]:
    """All labels, the most frequent first."""
    totals: dict[str, int] = {}
    for row in rows:
        for label, count in (row.labels or {}).items():
            totals[label] = totals.get(label, 0) + count
    return sorted(totals, key=lambda label: -totals[label])


def _likeness(row: SplitRow, rank: dict[str, int]) -> tuple[int, int]:
    """The sort key of a client: its most frequent label, then its size."""
    return rank.get(row.top[0], len(rank)) if row.top else len(rank), -row.examples
