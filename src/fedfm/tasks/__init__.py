"""Tasks: the loss and the metrics of each kind."""

from fedfm.tasks.base import Batch, Collate, Task
from fedfm.tasks.classification import ImageClassification, TextClassification
from fedfm.tasks.instruction import Instruct
from fedfm.tasks.language_modeling import CausalLM, MaskedLM
from fedfm.tasks.preference import Preference
from fedfm.tasks.retrieval import Retrieval
from fedfm.tasks.seq2seq import Seq2Seq
from fedfm.tasks.settings import TaskSettings

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
    "image-classification": ImageClassification(),
    "masked-lm": MaskedLM(),
    "causal-lm": CausalLM(),
    "instruct": Instruct(),
    "seq2seq": Seq2Seq(),
    "preference": Preference(),
    "retrieval": Retrieval(),
}


def task_of(settings: TaskSettings) -> Task:
    """The task that a recipe names, with its settings."""
    return TASKS[settings.kind].configured(settings)


__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Collate",
    "ImageClassification",
    "Instruct",
    "MaskedLM",
    "Preference",
    "Retrieval",
    "Seq2Seq",
    "Task",
    "TaskSettings",
    "TextClassification",
    "task_of",
]
