"""Tasks: the loss and the metrics of each kind."""

from fedfm.tasks.base import Batch, Collate, Task
from fedfm.tasks.classification import ImageClassification, TextClassification
from fedfm.tasks.language_modeling import CausalLM, MaskedLM
from fedfm.tasks.settings import TaskSettings

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
    "image-classification": ImageClassification(),
    "masked-lm": MaskedLM(),
    "causal-lm": CausalLM(),
}

__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Collate",
    "ImageClassification",
    "MaskedLM",
    "Task",
    "TaskSettings",
    "TextClassification",
]
