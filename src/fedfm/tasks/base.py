"""What a task is: how examples become batches, which loss is minimised, which metrics are reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from torch import Tensor

from fedfm.data.examples import Examples
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.settings import FILE, DataSettings
from fedfm.data.sources import Source

Batch = dict[str, Tensor]
"""Model inputs by argument name, and ``labels``; first dimension = examples."""

Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]
"""Makes a batch of rows."""

Measured = dict[str, np.ndarray]
"""What metrics are computed from, one entry an example (or a predicted token)."""


class ClassScore(TypedDict):
    """Precision, recall and F1 of a class, each None where it is not defined, and how many examples it has."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    examples: int


class PerClass(TypedDict):
    """How each class fared, in order of their ids; ``confusion[i][j]``: examples of class i taken for class j."""

    classes: list[ClassScore]
    confusion: list[list[int]]


class Task(ABC):
    """One kind of task. Stateless: the processor and the labels are arguments.

    Attributes:
        modality: what the backbone reads.
        auto_class: the transformers class whose ``from_pretrained`` gives the backbone its head.
        peft_type: peft's name of the task, None where peft has none.
        labelled: whether examples carry a class.
        draws_inputs: whether an example's inputs differ from time to time (masks).
        metrics: name → whether higher is better; the headline metric, by which a run is judged, first.
    """

    modality: ClassVar[Literal["text", "image"]]
    auto_class: ClassVar[Any]
    peft_type: ClassVar[str | None]
    labelled: ClassVar[bool]
    draws_inputs: ClassVar[bool] = False
    metrics: ClassVar[Mapping[str, bool]]

    def inputs(self, data: DataSettings) -> list[str]:
        """The columns that a model reads."""
        return [data.image] if self.modality == "image" else list(data.text)

    def columns(self, data: DataSettings) -> list[RequestedColumn]:
        """The columns that are needed of a source."""
        needed = [RequestedColumn(name, self.modality, f"data.{self.modality}") for name in self.inputs(data)]
        if self.labelled:
            needed.append(RequestedColumn(data.label, "label", "data.label"))
        if data.client is not None:  # a column called `file` is looked for, to be refused
            needed.append(RequestedColumn(data.client, "client", "data.client", required=data.client != FILE))
        return needed

    @abstractmethod
    def encode(self, source: Source, data: DataSettings, processor: Any, labels: LabelMap | None) -> Examples:
        """Model-ready examples of a source, cached by content."""

    @abstractmethod
    def collate(self, processor: Any, seed: int) -> Collate:
        """A collator; ``seed`` keys what it draws (masks), and the same calls in the same order draw the same."""

    @abstractmethod
    def predictions(self, batch: Batch) -> Tensor:
        """Number of predictions of each example, ``[B]``; zero where a draw of masks has masked nothing."""

    @abstractmethod
    def losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss ``[B]`` and `predictions` of each example.

        Training minimises Σ loss / Σ predictions over the batch.
        """

    @abstractmethod
    def measure(self, logits: Tensor, batch: Batch) -> Measured:
        """What `score` needs of one batch, on the CPU."""

    @abstractmethod
    def score(self, measured: Measured, loss: float) -> dict[str, float]:
        """All metrics over everything measured.

        Args:
            measured: the concatenation of what `measure` returned.
            loss: mean loss a prediction, natural logarithm.
        """

    def majority(self, train: np.ndarray, test: np.ndarray) -> dict[str, float] | None:
        """All metrics of always answering the commonest training class; None for tasks without classes."""
        return None

    def per_class(self, measured: Measured, names: Sequence[str]) -> PerClass | None:
        """How each class fared, over everything measured; None for tasks without classes.

        Args:
            measured: the concatenation of what `measure` returned.
            names: of the classes, in order of their ids.
        """
        return None
