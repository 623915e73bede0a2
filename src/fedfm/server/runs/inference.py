"""What the model of a run makes of data: metrics where there are labels or documents, classes where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fedfm.clients import Evaluator
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.artifacts import load_tuned
from fedfm.hosts.devices import choose_device
from fedfm.tasks import TASKS

CHANGEABLE = ("data.", "evaluate.batch_size", "runtime.device", "allow_network")
"""Keys, or their beginnings, that other data may need otherwise than the run's own."""


def evaluate(run: Path | str, data: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Loss and metrics of a run's model on data that has what the run's own test data has.

    Args:
        run: the run's folder.
        data: as ``data.test`` of a recipe: a file, a folder, ``hf:NAME``, ``builtin:NAME``.
        overrides: ``dotted.key=value`` settings of this data, such as ``data.label=class``.

    Returns:
        ``examples`` (pieces, of documents), ``metrics`` (name → value, ``loss`` among them), and for classes
        ``classes`` and ``confusion``, see `PerClass`; None for other tasks.

    Raises:
        RecipeError: the folder has no model to load yet, or the data lacks a column.
        DataError: the data cannot be read.
    """
    model = _open(run, overrides)
    source = model.read(data)
    return _evaluate(model.evaluator, model.encode(source), model.labels)


def predict(run: Path | str, data: str, overrides: Sequence[str] = ()) -> pd.DataFrame:
    """The classes that a run's model gives to data; labels are not needed.

    Args:
        run: the run's folder.
        data: as ``data.test`` of a recipe.
        overrides: as in `evaluate`.

    Returns:
        A row for each of the data's, in its order: ``row`` (from 1), ``label`` where the data has one, ``predicted``,
        ``probability``, and ``probabilities.NAME`` for each class.

    Raises:
        RecipeError: as `evaluate`, and for tasks without classes.
        DataError: the data cannot be read.
    """
    model = _open(run, overrides)
    if model.labels is None:
        raise RecipeError(
            f"a model of {model.recipe.task.kind} gives no classes; `fedfm evaluate` measures it on documents",
            where="task.kind",
        )
    source = model.read(data)
    column = model.recipe.data.label
    truth = None if column not in source.table.column_names else source.table[column]
    logits = torch.from_numpy(model.evaluator.logits(model.encode(source, labelled=False)))
    probabilities = logits.double().softmax(-1).numpy()
    names = model.labels.names
    rows = [
        {
            "row": source.row_number(index),
            **({} if truth is None else {"label": truth[index]}),
            "predicted": names[int(row.argmax())],
            "probability": float(row.max()),
            "probabilities": dict(zip(names, row.tolist(), strict=True)),
        }
        for index, row in enumerate(probabilities)
    ]
    return pd.json_normalize(rows, max_level=1)


def evaluation(experiment: Experiment) -> dict[str, Any]:
    """As `evaluate`, of the model that an experiment holds, on its test set: the content of ``evaluation.json``."""
    return _evaluate(experiment.evaluator, experiment.data.test, experiment.data.labels)


def _evaluate(evaluator: Evaluator, examples: Examples, labels: LabelMap | None) -> dict[str, Any]:
    loss, measured = evaluator.measure(examples)
    scores = {"loss": loss, **evaluator.task.score(measured, loss)}
    per_class = None if labels is None else evaluator.task.per_class(measured, labels.names)
    return {"examples": len(examples), "metrics": scores, **(per_class or {"classes": None, "confusion": None})}


@dataclass(frozen=True)
class _Model:
    """A run's model, ready to be asked."""

    recipe: Recipe
    labels: LabelMap | None
    evaluator: Evaluator

    def read(self, data: str) -> Source:
        return read_source(data, "test", where="DATA", allow_network=self.recipe.allow_network)

    def encode(self, source: Source, *, labelled: bool = True) -> Examples:
        labels = self.labels if labelled else None
        return self.evaluator.task.encode(source, self.recipe.data, self.evaluator.processor, labels)


def _open(run: Path | str, overrides: Sequence[str]) -> _Model:
    folder = RunFolder.open(run)
    strange = [text for text in overrides if not text.startswith(CHANGEABLE)]
    if strange:
        raise RecipeError(
            f"{strange[0]} would be another model; only {', '.join(CHANGEABLE)} can be set for other data",
            where=strange[0].partition("=")[0],
        )
    recipe = load_recipe(folder.recipe, overrides)
    tunable, backbone = load_tuned(folder, recipe)
    device = choose_device(recipe.runtime.device)
    tunable.to(device)
    task = TASKS[recipe.task.kind]
    names = jsonl.read(folder.summary)["labels"]
    evaluator = Evaluator(
        tunable=tunable,
        family=backbone.family,
        task=task,
        processor=backbone.processor,
        metrics=tuple(task.metrics),
        batch_size=recipe.evaluate.batch_size,
        seed=recipe.seed,
        device=device,
    )
    return _Model(recipe, None if names is None else LabelMap(tuple(names)), evaluator)
