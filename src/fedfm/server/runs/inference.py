"""The model of a run on other data: metrics, predicted classes, written answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, VisionTextDualEncoderProcessor

from fedfm.clients import Evaluator
from fedfm.clients.references import with_references
from fedfm.data.conversations.questions import Question
from fedfm.data.examples import Examples
from fedfm.data.images import PixelStatistics, encode_images
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import DataSettings
from fedfm.data.sources import Source, read_source
from fedfm.errors import RecipeError
from fedfm.hosts.devices import choose_device
from fedfm.models.backbones import leave_room
from fedfm.models.heads import keep_outputs
from fedfm.recipe import Recipe, load_recipe
from fedfm.recipe.overrides import apply_overrides
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.runs.artifacts import load_initial, load_tuned
from fedfm.tasks.base import TaskPart
from fedfm.tasks.classification import channels, class_answers
from fedfm.tasks.generation import Generator, Heard
from fedfm.tasks.towers import TEMPLATE, class_embeddings, zero_shot_logits

if TYPE_CHECKING:
    import pandas as pd

CHANGEABLE = ("data.", "evaluate.batch_size", "evaluate.generate", "runtime.device", "allow_network")
"""Keys, or prefixes of keys, that may be changed for other data."""

COLUMNS = ("data.text=", "data.label=")
"""Starts of overrides that name the columns of the data."""


def evaluate(run: Path | str, data: str, overrides: Sequence[str] = (), *, task: str | None = None) -> dict[str, Any]:
    """Loss and metrics of a run's model on data with the columns of the run's test data.

    Args:
        run: the run's folder.
        data: a file, a folder, ``hf:NAME`` or ``builtin:NAME``, as ``data.test`` in a recipe.
        overrides: ``dotted.key=value`` settings for this data, such as ``data.label=class``.
        task: name of the task, of a model that has learnt several.

    Returns:
        ``examples`` (of documents: pieces), ``metrics`` (name → value, including ``loss``), ``classes`` and
        ``confusion`` (see `PerClass`; None for tasks without classes).

    Raises:
        RecipeError: the run has no saved round, or the data lacks a column; no task is named, or one that is not there.
        DataError: the data cannot be read.
    """
    model = open_model(run, overrides, task)
    examples = model.encode(model.read(data))
    if model.evaluator.task.compares:
        examples = _compared(run, model, examples)
    return _evaluate(model.evaluator, examples)


def predict(
    run: Path | str,
    data: str | None = None,
    overrides: Sequence[str] = (),
    *,
    prompts: Sequence[str] = (),
    heard: Heard | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    templates: Sequence[str] = (TEMPLATE,),
) -> pd.DataFrame:
    """What a run's model says about data: the classes that it predicts, or the answers that a language model writes.

    Labels and answers are not needed in the data.

    Args:
        run: the run's folder.
        data: as ``data.test`` of a recipe; None: ``prompts`` are given.
        overrides: as in `evaluate`; ``evaluate.generate`` says how a language model writes.
        prompts: texts for a language model to answer, in place of data.
        heard: gets the number of a prompt, from 0, and each piece of its answer as it is written.
        task: as in `evaluate`.
        classes: names by which a model of images and texts classifies images, without having learnt them.
        templates: prompts for such a name, each with ``{}`` in its place.

    Returns:
        One row for each row of the data, in its order, with ``row`` (from 1). Of a language model: ``prompt``,
        ``generated``, and ``answer`` if the data has any. Of others: ``label`` if the data has it, ``predicted``, and
        by the kind of task ``probability``, ``probabilities.NAME`` for each class, and ``words``.

    Raises:
        RecipeError: as `evaluate`; the model neither predicts classes nor writes; data and prompts do not fit.
        DataError: the data cannot be read, or a prompt is too long for the model.
    """
    if (data is None) == (not prompts):
        raise RecipeError("give either data or prompts", where="DATA")
    model = open_model(run, overrides, task)
    if model.evaluator.task.zero_shot != bool(classes):
        kind = f"a model of {model.recipe.task.kind}"
        fault = f"{kind} has its own classes" if classes else f"{kind} has no classes: name some, as with --class"
        raise RecipeError(fault, where="task.kind")
    if model.evaluator.task.generates:
        return _written(model, data, prompts, heard)
    if data is None:
        raise RecipeError(f"a model of {model.recipe.task.kind} answers no prompts; give it data", where="task.kind")
    return _zero_shot(model, data, classes, templates) if classes else _classified(model, data)


def _written(model: OpenedModel, data: str | None, prompts: Sequence[str], heard: Heard | None) -> pd.DataFrame:
    """The answers of a language model."""
    import pandas as pd

    questions, numbers = [Question.of(text) for text in prompts], list(range(1, len(prompts) + 1))
    if data is not None:
        source = read_source(data, "test", where="DATA", allow_network=model.recipe.allow_network)
        questions = model.evaluator.task.questions(source, model.recipe.data)
        numbers = [source.row_number(index) for index in range(len(source))]
    answers = generator_of(model.evaluator, model.recipe).answers(questions, heard)
    found = pd.DataFrame({"row": numbers, "prompt": [question.text for question in questions], "generated": answers})
    if any(question.answer is not None for question in questions):
        found["answer"] = [question.answer for question in questions]
    return found


def generator_of(evaluator: Evaluator, recipe: Recipe) -> Generator:
    """Writes with an evaluator's tunable, as a recipe says."""
    settings = recipe.evaluate.generate
    return Generator(
        tunable=evaluator.tunable,
        task=evaluator.task,
        tokenizer=cast(PreTrainedTokenizerBase, evaluator.processor),
        data=recipe.data,
        settings=settings,
        seed=recipe.seed if settings.seed is None else settings.seed,
        batch_size=evaluator.batch_size,
        device=evaluator.device,
    )


def _classified(model: OpenedModel, data: str) -> pd.DataFrame:
    """What a model predicts that does not write."""
    source = model.read(data)
    answers = model.evaluator.answers(model.encode(source, labelled=False))
    if answers is None:
        raise RecipeError(
            f"a model of {model.recipe.task.kind} predicts no classes and writes no text; use `fedfm evaluate` to "
            "measure it on documents",
            where="task.kind",
        )
    return _frame(answers, source, model)


def _zero_shot(model: OpenedModel, data: str, classes: Sequence[str], templates: Sequence[str]) -> pd.DataFrame:
    """The class of each image, by the names of the classes alone; the data needs no text."""
    keys, evaluator = model.recipe.data, model.evaluator
    columns = [
        RequestedColumn(keys.image, "image", "data.image"),
        RequestedColumn(keys.label, "any", "data.label", required=False),
    ]
    allowed = model.recipe.allow_network
    source = read_source(data, "test", where="DATA", columns=columns, csv=keys.csv, allow_network=allowed)
    processor, tunable = cast(VisionTextDualEncoderProcessor, evaluator.processor), evaluator.tunable
    side = processor.image_processor
    images = encode_images(source, keys.image, side, channels=channels(side))
    statistics, answers = PixelStatistics.of(side, channels(side)), list[dict[str, Any]]()
    tunable.eval()
    with torch.inference_mode():
        named = class_embeddings(tunable.model, processor.tokenizer, classes, templates)
        for start in range(0, len(images), evaluator.batch_size):
            rows = images.take(np.arange(start, min(start + evaluator.batch_size, len(images))))
            pixels = torch.from_numpy(np.stack([row["pixel_values"] for row in rows])).to(evaluator.device)
            logits = zero_shot_logits(tunable.model, statistics.pixels(pixels), named)
            answers += class_answers(logits, classes)
    return _frame(answers, source, model)


def _frame(answers: Sequence[dict[str, Any]], source: Source, model: OpenedModel) -> pd.DataFrame:
    """One row for each answer."""
    import pandas as pd

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


def _compared(run: Path | str, model: OpenedModel, examples: Examples) -> Examples:
    """Examples with their values under the model before round 1, which is loaded for it."""
    initial, _ = load_initial(RunFolder.open(run), model.recipe)
    tunable = initial.model.tunable
    tunable.to(model.evaluator.device)
    start = model.recipe.aggregate.initial(initial.model.start, model.recipe.seed)
    return with_references(replace(model.evaluator, tunable=tunable), examples, start)


@dataclass(frozen=True)
class OpenedModel:
    """A run's model, ready for inference."""

    recipe: Recipe
    labels: LabelMap | None
    evaluator: Evaluator

    def read(self, data: str) -> Source:
        """The rows of other data; raises as `evaluate`."""
        task = self.evaluator.task
        columns = None if task.labelled else task.columns(self.recipe.data)  # of labelled data the labels may be absent
        source = read_source(data, "test", where="DATA", columns=columns, allow_network=self.recipe.allow_network)
        return task.prepare(source, self.recipe.data)

    def encode(self, source: Source, *, labelled: bool = True) -> Examples:
        """Rows as examples for the model; without labels, if the source has none."""
        labels = self.labels if labelled else None
        return self.evaluator.task.encode(source, self.recipe.data, self.evaluator.processor, labels)


def open_model(run: Path | str, overrides: Sequence[str] = (), named: str | None = None) -> OpenedModel:
    """A run's model, ready for inference; raises as `evaluate`.

    Args:
        run: the run's folder.
        overrides: settings for the data at hand.
        named: the task, of a model that has learnt several.
    """
    folder = RunFolder.open(run)
    refused = [text for text in overrides if not text.startswith(CHANGEABLE)]
    if refused:
        raise RecipeError(
            f"{refused[0]} would change the model; only {', '.join(CHANGEABLE)} can be set for other data",
            where=refused[0].partition("=")[0],
        )
    columns = [text for text in overrides if named is not None and text.startswith(COLUMNS)]  # the task's own
    recipe = load_recipe(folder.recipe, [text for text in overrides if text not in columns])
    tuned = load_tuned(folder, recipe)
    tunable, backbone = tuned.model.tunable, tuned.backbone
    leave_room(backbone.processor, recipe.tune.virtual_tokens)
    device = choose_device(recipe.runtime.device)
    tunable.to(device)
    names = jsonl.read(folder.summary)["labels"]
    task, chosen = recipe.task, _part(recipe, named, columns)
    if chosen is not None:
        keep_outputs(tunable.model, chosen.outputs, len(names))
        task, names = chosen.task, list(chosen.labels.names)
        recipe = recipe.model_copy(update={"task": task, "data": chosen.data})
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
    return OpenedModel(recipe, None if names is None else task.named(names), evaluator)


def _part(recipe: Recipe, named: str | None, columns: Sequence[str]) -> TaskPart | None:
    """The task of a model that has learnt several; None of a model that has learnt one.

    Args:
        recipe: of the run.
        named: the task.
        columns: overrides of its columns.

    Raises:
        RecipeError: none is named, or one that is not there.
    """
    known = recipe.task.part_names
    if named is None and not known:
        return None
    if not known:
        raise RecipeError(f"this model has learnt one task, {recipe.task.kind}: leave it out", where="--task")
    if named not in known:
        what = "name one of them" if named is None else f"there is no task `{named}`"
        raise RecipeError(f"this model has learnt several tasks ({', '.join(known)}): {what}", where="--task")
    part = recipe.task.part(named, recipe.data)
    values = apply_overrides({"data": part.data.model_dump()}, columns)
    return replace(part, data=DataSettings.model_validate(values["data"]))
