"""The files of a run read back, for reports: whatever is there; what is missing is None or empty.

Texts are as people may see them (`fedfm.printable`): names, reasons and classes come from clients and data, and the
folder may be another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfm.errors import DataError
from fedfm.printable import records
from fedfm.records import disk, jsonl, ledger, shapes
from fedfm.records.folder import RunFolder
from fedfm.records.jsonl import Record
from fedfm.yaml_text import YamlError, parse

NOT_METRICS = frozenset({"round", "split", "client", "examples", "seconds"})


@dataclass(frozen=True)
class RunFiles:
    """A run as its folder tells it.

    Attributes:
        recipe_text: recipe.yaml as it is.
        recipe: the same, parsed.
        summary: summary.json; None while a run has not ended.
        evaluation: evaluation.json; None while a run has not ended.
        environment: env.json.
        profile: profile.json; None where nobody asked for it.
        clients: clients.json, one record a client.
        metrics: metrics.jsonl in order.
        events: events.jsonl in order.
        traffic: bytes each way, by round.
        tensors: what crossed, grouped.
    """

    recipe_text: str
    recipe: Record
    summary: Record | None
    evaluation: Record | None
    environment: Record | None
    profile: Record | None
    clients: list[Record]
    metrics: list[Record]
    events: list[Record]
    traffic: ledger.Totals
    tensors: list[ledger.TensorGroup]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.recipe["name"])

    def rows(self, split: str) -> list[Record]:
        """The lines of metrics.jsonl about one split; ``client`` for the evaluation of single clients."""
        return [row for row in self.metrics if row["split"] == split]

    @property
    def headline(self) -> str:
        """The metric by which the run is judged."""
        return str(dig(self.summary, "metric") or next(iter(metric_keys(self.rows("test"))), "loss"))


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
        environment=_json(folder.environment, shapes.ENVIRONMENT),
        profile=_json(folder.profile, shapes.PROFILE),
        clients=_json(folder.clients, shapes.CLIENTS) or [],
        metrics=list(map(records, jsonl.records(folder.metrics, shapes.METRICS))),
        events=list(map(records, jsonl.records(folder.events, shapes.EVENT))),
        traffic=ledger.totals(folder.wire),
        tensors=ledger.tensor_groups(folder.wire),
    )


def summary_of(folder: RunFolder) -> Record | None:
    """The content of summary.json; None while a run has not ended.

    Raises:
        DataError: it is damaged.
        StorageError: it cannot be read.
    """
    summary: Record | None = _json(folder.summary, shapes.SUMMARY)
    return summary


def last_round(folder: RunFolder) -> int:
    """The last round that metrics.jsonl tells of; 0 when none was played.

    Raises:
        DataError: it is damaged.
        StorageError: it cannot be read.
    """
    return max((row["round"] for row in jsonl.records(folder.metrics, shapes.METRICS)), default=0)


def dig(tree: Any, path: str) -> Any:
    """The value at a dotted path, None where there is none."""
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
        raise DataError(f"{path}:{error.line or 1}: not YAML that can be read: {error}") from error
    if fault := shapes.RECIPE.fault(recipe):
        raise DataError(f"{path}: not a run's recipe: {fault}")
    found: Record = recipe
    return found
