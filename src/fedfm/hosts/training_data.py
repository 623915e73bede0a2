"""The training data of a recipe, and how it is split among clients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.settings import Reference
from fedfm.data.sources import Source, Split
from fedfm.data.streams import Timetable
from fedfm.errors import RecipeError
from fedfm.hosts.changed_data import changed
from fedfm.hosts.client_split import ClientSplit, split_clients
from fedfm.hosts.held_examples import HeldExamples
from fedfm.hosts.stream_tasks import check_attendance, headed, timetable_of
from fedfm.models.backbones import load_processor
from fedfm.models.processors import Processor
from fedfm.randomness import numpy_generator
from fedfm.recipe import Recipe
from fedfm.recipe.cohorts import check_cohort, check_presence
from fedfm.tasks import Task


@dataclass(frozen=True)
class TrainingData:
    """The training data of all clients.

    Attributes:
        recipe: the recipe, with the values that depend on the data filled in (clients, cohort size, partition).
        task: of the run.
        processor: tokenizer or image processor.
        labels: the classes; None for tasks without classes.
        train: all training examples; ``federation`` says which client holds which.
        federation: the clients and their examples.
        source: of ``train``.
        held_back: the sources of splits that are a fraction of the training data, by the split's name.
        digest: of the training examples' source.
        timetable: what clients train on in which round; None: on all their examples in every round.
    """

    recipe: Recipe
    task: Task
    processor: Processor
    labels: LabelMap | None
    train: Examples
    federation: ClientSplit
    source: Source
    held_back: dict[str, Source]
    digest: str
    timetable: Timetable | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that the recipe asks for."""
        asked = self.recipe.evaluate.metrics
        return tuple(self.task.metrics if asked == "auto" else asked)


def read_training(recipe: Recipe) -> TrainingData:
    """Reads, encodes and splits the training data; the model's weights are not loaded.

    Raises:
        RecipeError: recipe and data do not fit; the message says what to change.
        DataError: a file cannot be read.
    """
    task = recipe.task
    processor = processor_of(recipe)
    source = recipe_source(recipe, recipe.data.train, "train")
    labels = task.label_map(source, recipe.data)
    kept, held_back = _hold_back(recipe, source)
    train = task.encode(kept, recipe.data, processor, labels)
    federation = split_clients(recipe, train)
    timetable = timetable_of(recipe, kept, train, labels)
    encode = partial(task.encode, data=recipe.data, processor=processor, labels=labels)
    train = changed(recipe, HeldExamples(train, federation.train, federation.holdout, labels, kept, encode, processor))
    check_presence(recipe, federation.train)
    if timetable is not None:
        check_attendance(recipe, timetable, federation.train)
    settled = headed(recipe, task.settled(labels, train, federation.train), timetable, train, labels)
    recipe = _resolved(recipe, len(federation.train), settled, timetable)
    return TrainingData(
        recipe=recipe,
        task=recipe.task,
        processor=processor,
        labels=labels,
        train=train,
        federation=federation,
        source=kept,
        held_back=held_back,
        digest=kept.digest,
        timetable=timetable,
    )


def recipe_source(recipe: Recipe, reference: Reference, split: Split, *, where: str | None = None) -> Source:
    """The source of `data.train`, `data.validation` or `data.test`, with the columns that the task needs.

    Its digest covers the images that it refers to.

    Args:
        recipe: of the run.
        reference: what the recipe names.
        split: of a set that has several.
        where: the key that names it; None: ``data.SPLIT``.

    Raises:
        RecipeError, DataError: as the task's `read`.
    """
    stream = recipe.federation.stream
    return recipe.task.read(
        reference,
        split,
        recipe.data,
        where=where or f"data.{split}",
        allow_network=recipe.allow_network,
        beside=stream.columns() if stream is not None else (),
    )


def processor_of(recipe: Recipe) -> Processor:
    """The recipe's tokenizer or image processor.

    Raises:
        RecipeError: the model has none that fits.
    """
    task = recipe.task
    return load_processor(
        recipe.model,
        task.modality,
        causal=task.causal,
        virtual_tokens=recipe.tune.virtual_tokens,
        allow_network=recipe.allow_network,
    )


def _hold_back(recipe: Recipe, source: Source) -> tuple[Source, dict[str, Source]]:
    """The rows to train on, and the splits that are held back from them.

    Rows are split before they are encoded, so that no document is in two splits.
    """
    parts: dict[str, Source] = {}
    order = numpy_generator(recipe.seed, "limit").permutation(len(source))[: recipe.data.limit]
    total = len(order)
    for name in ("test", "validation"):
        share = getattr(recipe.data, name)
        if isinstance(share, float):
            size = round(share * total)
            if not 0 < size < len(order):
                raise RecipeError(f"cannot hold back {size} of {len(order)} examples", where=f"data.{name}")
            parts[name], order = source.select(np.sort(order[:size])), order[size:]
    return source if len(order) == len(source) else source.select(np.sort(order)), parts


def _resolved(recipe: Recipe, clients: int, task: Task, timetable: Timetable | None) -> Recipe:
    """The recipe with the values that depend on the data, so that ``recipe.yaml`` says what was run."""
    settings = recipe.federation
    per_round = check_cohort(recipe, clients)
    if recipe.protocol.asks_everyone:
        per_round = clients
    known: dict[str, object] = {
        "clients": clients,
        "per_round": settings.per_round or per_round,
        "partition": recipe.partition,
    }
    if settings.stream is not None and timetable is not None:
        known["stream"] = settings.stream.model_copy(update={"rounds": timetable.rounds})
    return recipe.model_copy(update={"federation": recipe.federation.model_copy(update=known), "task": task})
