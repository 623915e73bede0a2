"""The interface of a task: its batches, its loss and its metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypedDict

import numpy as np
from torch import Tensor, nn

from fedfm.capabilities import SINGLE_EXAMPLES
from fedfm.data.conversations.questions import Question
from fedfm.data.examples import REFERENCE, Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn, Role
from fedfm.data.settings import BY_TASK, FILE, DataSettings, Reference
from fedfm.data.sources import Source, Split, read_source
from fedfm.models.configs import ProblemType
from fedfm.models.tunable import Tunable
from fedfm.settings import Capabilities, Settings
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
    """Scores of the classes, in the order of their ids; ``confusion[i][j]``: examples of i predicted as j.

    ``confusion`` is empty where labels do not exclude each other.
    """

    classes: list[ClassScore]
    confusion: list[list[int]]


@dataclass(frozen=True)
class TaskPart:
    """One of several tasks that a model has learnt.

    Attributes:
        task: as if the model had learnt nothing else.
        data: names its columns.
        labels: of its outputs.
        outputs: where they are among the outputs of the model.
    """

    task: Task
    data: DataSettings
    labels: LabelMap
    outputs: slice


@dataclass(frozen=True)
class HeldOutputs:
    """Which outputs of the model a client trains, where not all clients train all of them.

    Attributes:
        total: number of outputs.
        of: client → the slices that it trains; clients that are absent train all.
    """

    total: int
    of: Mapping[str, tuple[slice, ...]]


class Task(Settings):
    """One kind of task, with its settings: the recipe's ``task``. The processor and the labels are arguments.

    `losses` and `measure` read what `outputs` takes from the model's forward pass, by default its logits.

    Attributes:
        modality: the type of the backbone's input.
        auto_class: the transformers class that loads the backbone with the head of the task.
        text_role: how the columns of text are read: a text, or a list of words.
        label_role: how the column ``data.label`` is read: one label, a list of them, or numbers.
        peft_type: peft's name of the task; None if peft has no such task.
        labelled: whether examples have what is to be predicted in the column ``data.label``.
        problem_type: transformers' name of what the logits are, for a model with labels.
        draws_inputs: whether the inputs of an example are drawn at random each time (masks).
        own_keys: keys of the recipe's ``data`` that only some tasks read, this one among them.
        causal: whether the model must not read the tokens that it predicts.
        across_examples: whether the loss of an example depends on the other examples of its batch, as a contrastive
            loss does; clients then train one by one, since the batches of clients that share a pass are joined.
        compares: whether the loss compares an example's `compared` with that of the model before round 1, which is
            then in a batch as `REFERENCE`.
        generates: whether the model writes, so that `questions`, `prompt` and `end` are there.
        continues: of a task that generates, whether an answer continues the text of its prompt.
        text_columns: how many columns ``data.text`` may name.
        zero_shot: whether the model classifies images by names of classes that are given afterwards.
        answers_questions: whether `fedfm ask` can put questions to a run of this kind.
        names_columns: whether the task itself names the columns, so that `data.text` and `data.label` are not read.
        metrics: name → whether higher is better; the first is the main metric, which decides between rounds.
    """

    kind: str
    """Kind of the task: its input and what is predicted."""
    modality: ClassVar[Literal["text", "image", "image-text"]]
    text_role: ClassVar[Role] = "text"
    label_role: ClassVar[Role] = "label"
    auto_class: ClassVar[Any]
    peft_type: ClassVar[str | None]
    labelled: ClassVar[bool]
    problem_type: ClassVar[ProblemType] = "single_label_classification"
    draws_inputs: ClassVar[bool] = False
    own_keys: ClassVar[frozenset[str]] = frozenset()
    causal: ClassVar[bool] = False
    across_examples: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    continues: ClassVar[bool] = False
    text_columns: ClassVar[tuple[int, ...]] = (1,)
    zero_shot: ClassVar[bool] = False
    answers_questions: ClassVar[bool] = False
    names_columns: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, bool]]

    def capabilities(self) -> Capabilities:
        """As declared; a loss over several examples takes that each example counts by itself."""
        said = super().capabilities()
        if not self.across_examples:
            return said
        reason = "its loss compares the examples of a batch with each other"
        return Capabilities(said.needs, said.gives, {**said.takes, SINGLE_EXAMPLES: reason})

    def inputs(self, data: DataSettings) -> list[str]:
        """The columns that the model reads."""
        return [data.image] if self.modality == "image" else list(data.text)

    def columns(self, data: DataSettings) -> list[RequestedColumn]:
        """The columns that a source must have."""
        role: Role = self.text_role if self.modality == "text" else "image"
        needed = [RequestedColumn(name, role, f"data.{self.modality}") for name in self.inputs(data)]
        if self.labelled:
            needed.append(RequestedColumn(data.label, self.label_role, "data.label"))
        return [*needed, *client_columns(data)]

    def read(
        self,
        reference: Reference,
        split: Split,
        data: DataSettings,
        *,
        where: str,
        allow_network: bool,
        beside: Sequence[RequestedColumn] = (),
    ) -> Source:
        """A source of the run, with the columns that the task needs, as `encode` reads it.

        Args:
            reference: what the recipe names.
            split: of a set that has several.
            data: names the columns.
            where: the key that names the reference.
            allow_network: whether a hub data set may be downloaded.
            beside: further columns that the table must have.

        Raises:
            RecipeError, DataError: as `read_source` and `prepare`.
        """
        columns = [*self.columns(data), *beside]
        source = read_source(reference, split, where=where, columns=columns, csv=data.csv, allow_network=allow_network)
        return self.prepare(source, data)

    def refuses(self, split: str, data: DataSettings) -> str | None:
        """Why the source of a split, or of `root`, does not fit the task, as the recipe names it; None if it does."""
        if getattr(data, split) != BY_TASK:
            return None
        return f"`{BY_TASK}` stands for the sources of several tasks, and `task.kind: {self.kind}` is one: name a file"

    def settled(self, labels: LabelMap | None, examples: Examples, clients: Mapping[str, np.ndarray]) -> Self:
        """The task with what the training data decides filled in, so that ``recipe.yaml`` says it.

        Args:
            labels: of the run.
            examples: all training examples.
            clients: client id → indices of those that it trains on.
        """
        return self

    def with_heads(self, heads: Sequence[int]) -> Self:
        """The task with several heads; only where each example has one label.

        Args:
            heads: number of the head that each class is of.
        """
        raise NotImplementedError

    def numbers(self, examples: Examples) -> np.ndarray | None:
        """Which of several tasks each example is of, int64 ``[N]``; None where there is one task."""
        return None

    @property
    def outputs_held(self) -> HeldOutputs | None:
        """Which outputs each client trains; None where all clients train all."""
        return None

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the tasks that the model learns at once; empty where there is one task."""
        return ()

    def part(self, name: str, data: DataSettings) -> TaskPart:
        """One of `part_names`.

        Args:
            name: of the task.
            data: of the run.
        """
        raise NotImplementedError

    def prepare(self, source: Source, data: DataSettings) -> Source:
        """A source as `encode` reads it, with the columns that `inputs` names; by default as it is."""
        return source

    def named(self, names: Sequence[str]) -> LabelMap:
        """The labels that a recipe names."""
        return LabelMap(tuple(names))

    def label_map(self, source: Source, data: DataSettings) -> LabelMap | None:
        """The classes, or else the names of the outputs of a model; None for tasks without labels.

        Args:
            source: the training examples, or the test examples if clients hold the training examples.
            data: names the column, and may name the classes.

        Raises:
            RecipeError, DataError: as `LabelMap.from_source`.
        """
        if not self.labelled:
            return None
        return self.named(data.labels) if data.labels else LabelMap.from_source(source, data.label)

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

    def check_model(self, tunable: Tunable, processor: Any, name: str, data: DataSettings) -> None:
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

    def choices(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The outputs, with −∞ for labels between which an example is not a choice; by default as they are."""
        return outputs

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

    def of_loss(self, loss: float) -> dict[str, float]:
        """Those of ``metrics`` that follow from the mean loss a prediction alone."""
        return {}

    @abstractmethod
    def score(self, measured: Measured, loss: float, names: Sequence[str] = ()) -> dict[str, float]:
        """All metrics over all measured batches.

        Args:
            measured: the concatenated results of `measure`.
            loss: mean loss per prediction, natural logarithm.
            names: of the labels, in the order of their ids.
        """

    def answers(self, outputs: Tensor, batch: Batch, names: Sequence[str]) -> list[dict[str, Any]] | None:
        """What the model predicts for each example of a batch; None for tasks that only measure.

        Args:
            outputs: of `outputs`.
            batch: which need not have labels.
            names: of the labels, in the order of their ids.

        Returns:
            For each example ``predicted``, and what else is known of it, such as ``probabilities`` by name.
        """
        return None

    def label_counts(self, examples: Examples, indices: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
        """How many of some examples have each label, int64 ``[labels]``; None for tasks without classes."""
        return None if examples.labels is None else np.bincount(examples.labels[indices], minlength=len(names))

    def records(self, answers: Sequence[dict[str, Any]], source: Source, data: DataSettings) -> list[dict[str, Any]]:
        """What is written of each row of a source: its label where the source has it, and the answer to it.

        Args:
            answers: as `answers` gives them, in the order of the rows.
            source: the rows.
            data: names the columns.
        """
        if data.label not in source.table.column_names:
            return list(answers)
        return [{"label": label, **answer} for label, answer in zip(source.table[data.label], answers, strict=True)]

    def majority(self, train: np.ndarray, test: np.ndarray) -> dict[str, float] | None:
        """All metrics when the most frequent training class is always predicted; None for tasks without one."""
        return None

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass | None:
        """The scores of each class over all measured batches; None for tasks without them.

        Args:
            measured: the concatenated results of `measure`.
            names: of the classes, in the order of their ids.
        """
        return None
