"""The interface of a task: its batches, its loss and its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from torch import Tensor, nn

from fedfm.data.conversations.questions import Question
from fedfm.data.examples import REFERENCE, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import FILE, DataSettings
from fedfm.data.sources import Source
from fedfm.models.tunable import Tunable
from fedfm.tasks.settings import TaskSettings
from fedfm.tasks.shown import ShownExample

Batch = dict[str, Tensor]
"""Model inputs by argument name, and `TARGETS`; the first dimension counts examples, of pairs of texts that are read
apart their texts."""

ADJUSTMENT = "adjustment"
"""In a batch to train a classifier on: ``[B, classes]``, what is added to the logits before the loss."""

TARGETS = ("labels", ADJUSTMENT, REFERENCE)
"""What of a batch only the loss reads."""

Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Turns rows into a batch."""

Measured = dict[str, np.ndarray]
"""The values from which metrics are computed, one entry per example (or per predicted token)."""


def client_columns(data: DataSettings) -> list[RequestedColumn]:
    """The column that names the client, if there is one."""
    if data.client is None:
        return []
    return [RequestedColumn(data.client, "client", "data.client", required=data.client != FILE)]  # `file`: to refuse it


class ClassScore(TypedDict):
    """Precision, recall and F1 of a class, each None if it is undefined, and its number of examples."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    examples: int


class PerClass(TypedDict):
    """Scores of the classes, in the order of their ids; ``confusion[i][j]``: examples of i predicted as j."""

    classes: list[ClassScore]
    confusion: list[list[int]]


class Task(ABC):
    """One kind of task. It has no state: the processor and the labels are arguments.

    `losses` and `measure` read what `outputs` takes from the model's forward pass, by default its logits.

    Attributes:
        modality: the type of the backbone's input.
        auto_class: the transformers class that loads the backbone with the head of the task.
        peft_type: peft's name of the task; None if peft has no such task.
        labelled: whether examples have a class.
        draws_inputs: whether the inputs of an example are drawn at random each time (masks).
        own_keys: keys of the recipe's ``data`` that only some tasks read, this one among them.
        own_settings: keys of the recipe's ``task`` that only some tasks read, this one among them.
        causal: whether the model must not read the tokens that it predicts.
        across_examples: whether the loss of an example depends on the other examples of its batch, as a contrastive
            loss does; clients then train one by one, since the batches of clients that share a pass are joined.
        compares: whether the loss compares an example's `compared` with that of the model before round 1, which is
            then in a batch as `REFERENCE`.
        generates: whether the model writes, so that `questions`, `prompt` and `end` are there.
        text_columns: how many columns ``data.text`` may name.
        answers_questions: whether `fedfm ask` can put questions to a run of this kind.
        metrics: name → whether higher is better; the first is the main metric, which decides between rounds.
    """

    modality: ClassVar[Literal["text", "image"]]
    auto_class: ClassVar[Any]
    peft_type: ClassVar[str | None]
    labelled: ClassVar[bool]
    draws_inputs: ClassVar[bool] = False
    own_keys: ClassVar[frozenset[str]] = frozenset()
    own_settings: ClassVar[frozenset[str]] = frozenset()
    causal: ClassVar[bool] = False
    across_examples: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    text_columns: ClassVar[tuple[int, ...]] = (1,)
    answers_questions: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, bool]]

    def configured(self, settings: TaskSettings) -> Task:
        """The task with the recipe's own settings of it; by default itself, since most kinds have none."""
        return self

    def inputs(self, data: DataSettings) -> list[str]:
        """The columns that the model reads."""
        return [data.image] if self.modality == "image" else list(data.text)

    def columns(self, data: DataSettings) -> list[RequestedColumn]:
        """The columns that a source must have."""
        needed = [RequestedColumn(name, self.modality, f"data.{self.modality}") for name in self.inputs(data)]
        if self.labelled:
            needed.append(RequestedColumn(data.label, "label", "data.label"))
        return [*needed, *client_columns(data)]

    def prepare(self, source: Source, data: DataSettings) -> Source:
        """A source as `encode` reads it, with the columns that `inputs` names; by default as it is."""
        return source

    @abstractmethod
    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """The encoded examples of a source, cached by content."""

    @abstractmethod
    def collate(self, processor: Any, seed: int) -> Collate:
        """A collator; ``seed`` is the key of its random choices (masks), which depend on the order of its calls."""

    @abstractmethod
    def show(self, row: Mapping[str, Any], processor: Any, names: Sequence[str] | None) -> ShownExample:
        """One encoded example for people.

        Args:
            row: as `Examples.take` returns it.
            processor: the backbone's tokenizer or image processor.
            names: of the classes; None for tasks without classes.
        """

    def check_model(  # noqa: B027 - most tasks refuse none
        self, tunable: Tunable, processor: Any, name: str, data: DataSettings
    ) -> None:
        """Refuses a model that cannot do the task, by what it computes; nothing by default.

        Args:
            tunable: attached to the model.
            processor: of the model.
            name: of the model, for the message.
            data: says how examples are made.

        Raises:
            RecipeError: the model does not fit.
        """

    def delivered(self, processor: Any, data: DataSettings) -> Any:
        """The processor that is written beside the model; by default the backbone's own."""
        return processor

    def questions(self, source: Source, data: DataSettings) -> list[Question]:
        """What the model is to continue in each row of a source, which `prepare` has not seen; only where `generates`.

        Raises:
            RecipeError, DataError: a row has nothing to continue.
        """
        raise NotImplementedError

    def prompt(self, question: Question, processor: Any, data: DataSettings) -> list[int]:
        """The tokens that the model continues; of an encoder-decoder, those that the encoder reads.

        Raises:
            DataError: it cannot be written.
        """
        raise NotImplementedError

    def end(self, processor: Any, data: DataSettings) -> int | None:
        """The token that ends an answer, beside the tokenizer's end token; None: there is no other."""
        return None

    @abstractmethod
    def predictions(self, batch: Batch) -> Tensor:
        """Number of predictions of each example, ``[B]``; zero if no token of it was masked."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """What one forward pass of the model gives to `losses` and `measure`, ``[B, ...]``: by default the logits.

        A task calls the model once, with the batch's own tensors: clients that share a pass, and evaluation, compute
        blocks without the padding that ``attention_mask`` of the batch describes.

        Args:
            model: of `auto_class`, with a tunable attached or without.
            batch: on the model's device; the model does not get its `TARGETS`.
        """
        logits: Tensor = model(**{name: tensor for name, tensor in batch.items() if name not in TARGETS}).logits
        return logits

    def compared(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The value of each example that the loss compares with another model's, ``[B]``; only where `compares`."""
        raise NotImplementedError

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss ``[B]`` and `predictions` of each example.

        Training minimises Σ loss / Σ predictions over the batch.
        """

    @abstractmethod
    def measure(self, outputs: Tensor, batch: Batch) -> Measured:
        """The values of one batch that `score` needs, on the CPU."""

    @abstractmethod
    def score(self, measured: Measured, loss: float) -> dict[str, float]:
        """All metrics over all measured batches.

        Args:
            measured: the concatenated results of `measure`.
            loss: mean loss per prediction, natural logarithm.
        """

    def majority(self, train: np.ndarray, test: np.ndarray) -> dict[str, float] | None:
        """All metrics when the most frequent training class is always predicted; None for tasks without classes."""
        return None

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass | None:
        """The scores of each class over all measured batches; None for tasks without classes.

        Args:
            measured: the concatenated results of `measure`.
            names: of the classes, in the order of their ids.
        """
        return None
