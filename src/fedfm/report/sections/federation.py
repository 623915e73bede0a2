"""The split of the data among clients."""

from __future__ import annotations

from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.reading import RunFiles
from fedfm.report import charts, split, svg
from fedfm.report.sections.parts import Chart, LegendKey, Table

LISTED = 500
"""Rows of the table: the largest clients."""


@dataclass(frozen=True)
class FederationSection:
    """The split; ``few``: each client is named beside its bar."""

    sentences: list[str]
    legend: list[LegendKey]
    charts: list[Chart]
    few: bool
    clients: Table
    left_out: int


def federation(run: RunFiles) -> FederationSection | None:
    """The split; None when clients.json is missing or empty."""
    if not run.clients:
        return None
    rows = split.split_table(run.clients)
    facts = split.split_facts(rows)
    legend, sentences = split.legend_labels(facts.labels), split.describe(facts)
    told = sorted({row["label_epsilon"] for row in run.clients if "label_epsilon" in row})
    if told:
        sentences = [
            *sentences,
            "Labels of sites are estimates from randomised response, with "
            f"ε = {' or '.join(f'{epsilon:g}' for epsilon in told)} for each example.",
        ]
    few = len(rows) <= charts.FEW
    width, height = (5.4, charts.bars_height(len(rows))) if few else (8.2, 2.7)
    what = "Examples of each client by label" if legend else "Examples of each client"
    title = f"{what}. {' '.join(sentences)}"
    drawn = [Chart(what, svg.inline("split", split.draw_split(rows), title=title, width=width, height=height))]
    if not few:
        draw = charts.histogram([row.examples for row in rows], axis="examples of a client")
        drawn.append(
            Chart("Sizes", svg.inline("sizes", draw, title="How many clients have how many examples", height=2.7))
        )
    return FederationSection(
        sentences,
        [LegendKey(f"--category-{index}", label) for index, label in enumerate(legend)],
        drawn,
        few,
        _clients(rows[:LISTED], labelled=bool(legend)),
        max(0, len(rows) - LISTED),
    )


def _clients(rows: list[split.SplitRow], *, labelled: bool) -> Table:
    columns = ["client", "examples", "held out", *(["most frequent label"] if labelled else [])]
    lines = []
    for row in rows:
        top = f"{row.top[0]}, {100 * row.top[1]:.0f} %" if row.top else units.DASH
        lines.append([row.client, units.number(row.examples), units.number(row.holdout), *([top] if labelled else [])])
    return Table(columns, lines)
