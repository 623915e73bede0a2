"""The files of a run, read for reports. A missing file gives None or an empty list.

Texts are made safe to show (`fedfm.printable`): names, reasons and classes come from clients and from data, and the
folder may come from another person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedfm.errors import DataError
from fedfm.printable import records
from fedfm.records import costs, disk, jsonl, ledger, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.jsonl import Record
from fedfm.yaml_text import YamlError, parse

NOT_METRICS = frozenset({"round", "split", "client", "clients", "examples", "predictions", "seconds"})


@dataclass(frozen=True)
class RunFiles:
    """The content of a run's folder.

    Attributes:
        recipe_text: recipe.yaml, unchanged.
        recipe: recipe.yaml, parsed.
        summary: summary.json; None until the run has ended.
        evaluation: evaluation.json; None until the run has ended.
        matrix: matrix.json; None unless the recipe asks for it.
        samples: samples.json; None unless the recipe asks for written answers.
        judge: judge.json; None unless a judge compared written answers.
        synthetic: synthetic.json; None unless the protocol delivers synthetic texts.
        environment: env.json.
        profile: profile.json; None unless the run was profiled.
        audit: audit.json; None unless the run was audited.
        clients: clients.json, one record a client.
        metrics: metrics.jsonl in order.
        events: events.jsonl in order.
        traffic: bytes in each direction, in all and by round.
        tensors: what crossed, grouped.
        costs: what clients computed, sent and needed.
    """

    recipe_text: str
    recipe: Record
    summary: Record | None
    evaluation: Record | None
    matrix: Record | None
    samples: Record | None
    judge: Record | None
    synthetic: Record | None
    environment: Record | None
    profile: Record | None
    audit: Record | None
    clients: list[Record]
    metrics: list[Record]
    events: list[Record]
    traffic: ledger.LedgerTotals
    tensors: list[ledger.TensorGroup]
    costs: costs.CostTotals

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.recipe["name"])

    def rows(self, split: str) -> list[Record]:
        """The lines of metrics.jsonl about one split; ``client`` for the evaluation of single clients."""
        return [row for row in self.metrics if row["split"] == split]

    @cached_property
    def scored(self) -> list[Record]:
        """The lines by which the run is judged: on the test set; where there are none, the means over clients."""
        return self.client_means if self.by_clients else self.rows("test")

    @property
    def by_clients(self) -> bool:
        """Whether the run is judged by its clients' examples, not by a test set of the server."""
        by = dig(self.summary, "final_by")
        return by == "clients" if by else not self.rows("test") and bool(self.rows("client"))

    @cached_property
    def client_means(self) -> list[Record]:
        """For each round with an evaluation of clients, the mean over them, weighted by their examples.

        Each has ``round``, ``split`` (``clients``), ``clients`` (how many), ``examples`` (of all), the metrics (None
        where no client has a finite one), and ``seconds`` where a line of the round has it.
        """
        by_round: dict[int, list[Record]] = {}
        for row in self.rows("client"):
            by_round.setdefault(row["round"], []).append(row)
        return [self._mean(number, rows) for number, rows in sorted(by_round.items())]

    def _mean(self, number: int, rows: Sequence[Record]) -> Record:
        seconds = [row["seconds"] for row in self.metrics if row["round"] == number and "seconds" in row]
        found: Record = {"round": number, "split": "clients", "clients": len(rows)}
        found["examples"] = sum(row.get("examples", 1) for row in rows)
        for key in metric_keys(rows):
            known = [(row[key], row.get("examples", 1)) for row in rows if row.get(key) is not None]
            weight = sum(examples for _, examples in known)
            found[key] = sum(value * examples for value, examples in known) / weight if weight else None
        return found | ({"seconds": max(seconds)} if seconds else {})

    @property
    def headline(self) -> str:
        """The metric by which the run is judged."""
        return str(dig(self.summary, "metric") or next(iter(metric_keys(self.scored)), "loss"))


def read_run(folder: RunFolder) -> RunFiles:
    """Reads a run's folder.

    Raises:
        DataError: a file is damaged; names it.
        StorageError: a file exists and cannot be read.
    """
    recipe_text = _text(folder.recipe)
    return RunFiles(
        recipe_text=recipe_text,
        recipe=records(_mapping(folder.recipe, recipe_text)),
        summary=records(summary_of(folder)),
        evaluation=_json(folder.evaluation, shapes.EVALUATION),
        matrix=_json(folder.matrix, shapes.MATRIX),
        samples=_json(folder.samples, shapes.SAMPLES),
        judge=_json(folder.judge, shapes.JUDGE),
        synthetic=_json(folder.synthetic_scores, shapes.SYNTHETIC),
        environment=_json(folder.environment, shapes.ENVIRONMENT),
        profile=_json(folder.profile, shapes.PROFILE),
        audit=audit_of(folder),
        clients=_json(folder.clients, shapes.CLIENTS) or [],
        metrics=list(map(records, jsonl.records(folder.metrics, shapes.METRICS))),
        events=list(map(records, jsonl.records(folder.events, shapes.EVENT))),
        traffic=ledger.totals(folder.wire),
        tensors=ledger.tensor_groups(folder.wire),
        costs=costs.totals_of(map(records, jsonl.records(folder.costs, shapes.COSTS))),
    )


def summary_of(folder: RunFolder) -> Record | None:
    """The content of summary.json; None until the run has ended.

    Raises:
        DataError: it is damaged.
        StorageError: it cannot be read.
    """
    summary: Record | None = _json(folder.summary, shapes.SUMMARY)
    return summary


def audit_of(folder: RunFolder) -> Record | None:
    """The content of audit.json; None unless the run was audited.

    Raises:
        DataError: it is damaged.
        StorageError: it cannot be read.
    """
    audit: Record | None = _json(folder.audit, shapes.AUDIT)
    return audit


def last_round(folder: RunFolder) -> int:
    """The last round in metrics.jsonl; 0 before the first.

    Raises:
        DataError: it is damaged.
        StorageError: it cannot be read.
    """
    return max((row["round"] for row in jsonl.records(folder.metrics, shapes.METRICS)), default=0)


def dig(tree: Any, path: str) -> Any:
    """The value at a dotted path; None where a key is missing."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def metric_keys(rows: Sequence[Record]) -> list[str]:
    """The names of the metrics in some lines, the loss last."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in NOT_METRICS)
    return [key for key in keys if key != "loss"] + ["loss"] * ("loss" in keys)


def _text(path: Path) -> str:
    with disk.storage(path, "read"):
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error})") from error


def _json(path: Path, shape: shapes.Shape[Any]) -> Any:
    return records(jsonl.read(path, shape)) if path.exists() else None


def _mapping(path: Path, text: str) -> Record:
    try:
        recipe = parse(text)
    except YamlError as error:
        raise DataError(f"{path}:{error.line or 1}: cannot be read as YAML: {error}") from error
    if fault := shapes.RECIPE.fault(recipe):
        raise DataError(f"{path}: not a run's recipe: {fault}")
    found: Record = recipe
    return found
