"""Tasks: the loss and the metrics of each kind. Adding one: write its file, add its row here."""

from __future__ import annotations

from typing import Annotated

from fedfm.registry import Choice
from fedfm.tasks.base import Batch, Collate, Task
from fedfm.tasks.classification import ImageClassification, TextClassification
from fedfm.tasks.image_text import ImageText
from fedfm.tasks.instruction import Instruct
from fedfm.tasks.language_modeling import CausalLM, MaskedLM
from fedfm.tasks.multi import MultiTask
from fedfm.tasks.multi_label import MultiLabel
from fedfm.tasks.preference import Preference
from fedfm.tasks.regression import Regression
from fedfm.tasks.retrieval import Retrieval
from fedfm.tasks.seq2seq import Seq2Seq
from fedfm.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    "text-classification": TextClassification,
    "multi-label": MultiLabel,
    "token-classification": TokenClassification,
    "regression": Regression,
    "image-classification": ImageClassification,
    "masked-lm": MaskedLM,
    "causal-lm": CausalLM,
    "instruct": Instruct,
    "seq2seq": Seq2Seq,
    "preference": Preference,
    "retrieval": Retrieval,
    "multi": MultiTask,
    "image-text": ImageText,
}

AnyTask = Annotated[Task, Choice(TASKS, "kind", "fedfm.tasks")]

__all__ = [
    "TASKS",
    "AnyTask",
    "Batch",
    "CausalLM",
    "Collate",
    "ImageClassification",
    "ImageText",
    "Instruct",
    "MaskedLM",
    "MultiLabel",
    "MultiTask",
    "Preference",
    "Regression",
    "Retrieval",
    "Seq2Seq",
    "Task",
    "TextClassification",
    "TokenClassification",
]
