"""Tasks that share a model with others: each has a name, columns of its own, and outputs of its own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from fedfm.data.examples import Examples
from fedfm.data.settings import DataSettings, Reference, TextColumns
from fedfm.tasks.base import Task
from fedfm.tasks.classification import TextClassification
from fedfm.tasks.multi_label import MultiLabel
from fedfm.tasks.regression import Regression


class NamedTask(Task):
    """One of several tasks on texts, with a head of its own on the pooled text."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")]
    """Names the task: its metrics are `METRIC.NAME`, its labels `NAME.LABEL`."""
    train: Reference | None = None
    """Its training examples, with `data.train: tasks`."""
    validation: Reference | None = None
    """Its validation examples, with `data.validation: tasks`."""
    test: Reference | None = None
    """Its test examples, with `data.test: tasks`."""
    text: TextColumns = ["text"]
    """Its text column, or two columns for pairs of texts."""
    label: str = "label"
    """Column of what is to be predicted, as `data.label`."""
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of its outputs in their order; null: as for `data.labels`. A run's recipe has them filled in."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the losses of its examples."""

    def settings(self, data: DataSettings) -> DataSettings:
        """The settings of the data with the columns of the task."""
        return data.model_copy(update={"text": self.text, "label": self.label, "labels": self.labels})

    @property
    def names(self) -> list[str]:
        """Names of its outputs, once the data has been read."""
        if self.labels is None:
            raise ValueError(f"the labels of the task {self.name} are not known yet")
        return self.labels

    @property
    def width(self) -> int:
        """Numbers of `written_targets` of an example."""
        return len(self.names)

    @property
    def main_metric(self) -> str:
        """The first metric of which higher is better."""
        return next(name for name, higher in self.metrics.items() if higher)

    def written_targets(self, examples: Examples) -> np.ndarray:
        """What is to be predicted, as numbers ``[N, width]``."""
        if examples.targets is None:
            raise ValueError("the examples have no targets")
        return examples.targets

    def read_targets(self, written: Tensor) -> Tensor:
        """A batch's labels as the task expects them, from `written_targets`."""
        return written[:, : self.width]

    @abstractmethod
    def plain(self) -> Task:
        """The same task without a name and columns."""


class NamedTextClassification(TextClassification, NamedTask):
    """One class of a text or a pair of texts."""

    @field_validator("heads")
    @classmethod
    def _one_head(cls, heads: list[int]) -> list[int]:
        if heads:
            raise ValueError("one of several tasks has one head: leave it out")
        return heads

    @property
    def width(self) -> int:
        """One class."""
        return 1

    def written_targets(self, examples: Examples) -> np.ndarray:
        """The number of the class, ``[N, 1]``."""
        if examples.labels is None:
            raise ValueError("the examples have no classes")
        return examples.labels[:, None].astype(np.float32)

    def read_targets(self, written: Tensor) -> Tensor:
        """Classes ``[B]``."""
        return written[:, 0].long()

    def plain(self) -> TextClassification:
        """The class has no settings."""
        return TextClassification()


class NamedMultiLabel(MultiLabel, NamedTask):
    """Any number of labels of a text or a pair of texts."""

    def plain(self) -> MultiLabel:
        """With its threshold."""
        return MultiLabel(threshold=self.threshold)


class NamedRegression(Regression, NamedTask):
    """One or more numbers of a text or a pair of texts."""

    def plain(self) -> Regression:
        """In its unit."""
        return Regression(center=self.center, scale=self.scale)


AnyNamedTask = Annotated[
    NamedTextClassification | NamedMultiLabel | NamedRegression,
    Field(discriminator="kind"),
]
