"""The model of a run on other data: metrics for data with labels or documents, predicted classes for other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedfm.clients import Evaluator
from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.hosts.devices import choose_device
from fedfm.recipe import Recipe, load_recipe
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.artifacts import load_tuned

if TYPE_CHECKING:
    import pandas as pd

CHANGEABLE = ("data.", "evaluate.batch_size", "runtime.device", "allow_network")
"""Keys, or prefixes of keys, that may be changed for other data."""


def evaluate(run: Path | str, data: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Loss and metrics of a run's model on data with the columns of the run's test data.

    Args:
        run: the run's folder.
        data: a file, a folder, ``hf:NAME`` or ``builtin:NAME``, as ``data.test`` in a recipe.
        overrides: ``dotted.key=value`` settings for this data, such as ``data.label=class``.

    Returns:
        ``examples`` (of documents: pieces), ``metrics`` (name → value, including ``loss``), ``classes`` and
        ``confusion`` (see `PerClass`; None for tasks without classes).

    Raises:
        RecipeError: the run has no saved round, or the data lacks a column.
        DataError: the data cannot be read.
    """
    model = _open(run, overrides)
    source = model.read(data)
    return _evaluate(model.evaluator, model.encode(source))


def predict(run: Path | str, data: str, overrides: Sequence[str] = ()) -> pd.DataFrame:
    """The classes that a run's model predicts for data; labels are not needed.

    Args:
        run: the run's folder.
        data: as ``data.test`` of a recipe.
        overrides: as in `evaluate`.

    Returns:
        One row for each row of the data, in its order: ``row`` (from 1), ``label`` if the data has it, ``predicted``,
        and by the kind of task ``probability``, ``probabilities.NAME`` for each class, and ``words``.

    Raises:
        RecipeError: as `evaluate`, and for tasks without classes.
        DataError: the data cannot be read.
    """
    import pandas as pd

    model = _open(run, overrides)
    source = model.read(data)
    answers = model.evaluator.answers(model.encode(source, labelled=False))
    if answers is None:
        raise RecipeError(
            f"a model of {model.recipe.task.kind} predicts no classes; use `fedfm evaluate` to measure it on documents",
            where="task.kind",
        )
    records = model.evaluator.task.records(answers, source, model.recipe.data)
    return pd.json_normalize(
        [{"row": source.row_number(index), **record} for index, record in enumerate(records)], max_level=1
    )


def evaluation(experiment: Experiment) -> dict[str, Any]:
    """Like `evaluate`, for the model of an experiment on its test set: the content of ``evaluation.json``."""
    return _evaluate(experiment.evaluator, experiment.data.test)


def _evaluate(evaluator: Evaluator, examples: Examples) -> dict[str, Any]:
    loss, measured = evaluator.measure(examples)
    scores = {"loss": loss, **evaluator.task.score(measured, loss, evaluator.labels)}
    per_class = evaluator.task.per_class(measured, evaluator.labels)
    return {"examples": len(examples), "metrics": scores, **(per_class or {"classes": None, "confusion": None})}


@dataclass(frozen=True)
class _Model:
    """A run's model, ready for inference."""

    recipe: Recipe
    labels: LabelMap | None
    evaluator: Evaluator

    def read(self, data: str) -> Source:
        task = self.evaluator.task
        columns = None if task.labelled else task.columns(self.recipe.data)  # of labelled data the labels may be absent
        source = read_source(data, "test", where="DATA", columns=columns, allow_network=self.recipe.allow_network)
        return task.prepare(source, self.recipe.data)

    def encode(self, source: Source, *, labelled: bool = True) -> Examples:
        labels = self.labels if labelled else None
        return self.evaluator.task.encode(source, self.recipe.data, self.evaluator.processor, labels)


def _open(run: Path | str, overrides: Sequence[str]) -> _Model:
    folder = RunFolder.open(run)
    refused = [text for text in overrides if not text.startswith(CHANGEABLE)]
    if refused:
        raise RecipeError(
            f"{refused[0]} would change the model; only {', '.join(CHANGEABLE)} can be set for other data",
            where=refused[0].partition("=")[0],
        )
    recipe = load_recipe(folder.recipe, overrides)
    tuned = load_tuned(folder, recipe)
    tunable, backbone = tuned.model.tunable, tuned.backbone
    device = choose_device(recipe.runtime.device)
    tunable.to(device)
    task = recipe.task
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
        labels=() if names is None else tuple(names),
    )
    return _Model(recipe, None if names is None else task.named(names), evaluator)
