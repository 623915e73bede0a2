"""What each client contributed by its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedfm.records import units
from fedfm.records.client_scores import ClientScore, scores_of
from fedfm.records.reading import RunFiles, dig
from fedfm.report import charts, svg
from fedfm.report.sections.parts import Chart, Fact, Table

SHOWN = 50
"""Clients in the table: those with the lowest scores."""


@dataclass(frozen=True)
class ContributionSection:
    """Scores of all clients; ``left_out``: clients with high scores that the table does not have."""

    kind: str
    judged: bool
    facts: list[Fact]
    charts: list[Chart]
    clients: Table
    left_out: int


def contribution(run: RunFiles) -> ContributionSection | None:
    """The scores, summed over rounds; None for a run without."""
    totals = scores_of(run.metrics)
    if not totals.clients:
        return None
    ordered = dict(sorted(totals.clients.items(), key=lambda item: (item[1].score, item[0])))
    facts = [Fact("Clients scored", units.number(len(ordered)), "in at least one round")]
    if totals.change is not None:
        facts += [
            Fact("Models evaluated", units.number(totals.evaluations), "on the validation set, for the scores"),
            Fact("Change in all", _figure(totals.change), "of the utility, summed over rounds"),
        ]
    negative = sum(of.score < 0 for of in ordered.values())
    facts.append(Fact("Below zero", units.number(negative), "clients whose score is negative"))
    kind = str(dig(run.recipe, "contribution.kind") or "")
    return ContributionSection(
        kind, totals.change is not None, facts, [_chart(ordered)], _table(ordered), max(0, len(ordered) - SHOWN)
    )


def _chart(ordered: Mapping[str, ClientScore]) -> Chart:
    values = [of.score for of in ordered.values()]
    draw = charts.sorted_values(values, list(ordered), metric="score")
    height = charts.bars_height(len(values)) if len(values) <= charts.FEW else 2.6
    title = f"Score of each client, from {_figure(values[0])} to {_figure(values[-1])}"
    return Chart("Score of each client", svg.inline("contribution", draw, title=title, width=5.4, height=height))


def _table(ordered: Mapping[str, ClientScore]) -> Table:
    shown = list(ordered.items())[:SHOWN]
    rows = [[client, _figure(of.score), str(of.rounds), _figure(of.score / of.rounds)] for client, of in shown]
    return Table(["Client", "Score", "Rounds", "A round"], rows)


def _figure(value: float) -> str:
    return units.typeset(f"{value:+.4g}")
