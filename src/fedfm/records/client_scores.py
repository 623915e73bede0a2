"""What clients contributed, summed over a run: from the lines of split ``contribution`` in metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedfm.records import jsonl, shapes

SPLIT = "contribution"


@dataclass
class ClientScore:
    """One client's.

    Attributes:
        score: sum over the rounds in which it was scored.
        rounds: their number.
    """

    score: float = 0.0
    rounds: int = 0


@dataclass
class ScoreTotals:
    """All clients'.

    Attributes:
        clients: client id → its score; clients that were never scored are not in it.
        evaluations: models evaluated for the scores.
        change: of the utility, summed over scored rounds; None where no model was evaluated.
    """

    clients: dict[str, ClientScore] = field(default_factory=dict)
    evaluations: int = 0
    change: float | None = None

    def summary(self, kind: str) -> dict[str, Any]:
        """The content of ``contribution`` in ``summary.json``.

        Args:
            kind: the recipe's `contribution.kind`.
        """
        by_client = {c: {"score": of.score, "rounds": of.rounds} for c, of in sorted(self.clients.items())}
        return {"kind": kind, "evaluations": self.evaluations, "change": self.change, "by_client": by_client}


def score_totals(path: Path) -> ScoreTotals:
    """The totals of a run's metrics; empty where nothing was scored.

    Raises:
        DataError: a line is damaged.
    """
    return scores_of(jsonl.records(path, shapes.METRICS))


def scores_of(lines: Iterable[Mapping[str, Any]]) -> ScoreTotals:
    """The totals of lines of metrics.jsonl; a score that is not finite counts as 0."""
    found = ScoreTotals()
    for line in lines:
        if line["split"] != SPLIT:
            continue
        if (client := line.get("client")) is not None:
            of = found.clients.setdefault(client, ClientScore())
            of.score += line.get("score") or 0.0
            of.rounds += 1
            continue
        found.evaluations += int(line.get("evaluations") or 0)
        if "change" in line:
            found.change = (found.change or 0.0) + (line["change"] or 0.0)
    return found
