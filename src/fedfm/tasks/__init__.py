"""Tasks: the loss and the metrics of each kind. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.tasks.base import Batch, Collate, Task
from fedfm.tasks.classification import ImageClassification, TextClassification
from fedfm.tasks.language_modeling import CausalLM, MaskedLM

TASKS: dict[str, type[Task]] = {
    "text-classification": TextClassification,
    "image-classification": ImageClassification,
    "masked-lm": MaskedLM,
    "causal-lm": CausalLM,
}

AnyTask = Annotated[Task, Choice(TASKS, "kind", "fedfm.tasks")]

__all__ = [
    "TASKS",
    "AnyTask",
    "Batch",
    "CausalLM",
    "Collate",
    "ImageClassification",
    "MaskedLM",
    "Task",
    "TextClassification",
]
