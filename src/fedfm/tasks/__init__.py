"""Loss and metrics of each kind of task."""

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

LOWER_IS_BETTER = frozenset({"loss"}).union(
    name for task in TASKS.values() for name, higher in task.metrics.items() if not higher
)
"""What falls when a model gets better; all other metrics rise."""

__all__ = [
    "LOWER_IS_BETTER",
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
