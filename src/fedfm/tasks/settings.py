"""Settings of the task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings

TaskKind = Literal[
    "text-classification", "image-classification", "masked-lm", "causal-lm", "instruct", "seq2seq", "retrieval"
]

Pooling = Literal["mean", "cls"]


class TaskSettings(Settings):
    """The recipe's ``task``."""

    kind: TaskKind
    """Kind of the task: its input and what is predicted."""
    pooling: Pooling = "mean"
    """How `retrieval` makes one embedding of a text: the `mean` of its tokens' last hidden states, or the first token's
    (`cls`)."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.05
    """τ of `retrieval`: similarities are divided by it before the softmax; smaller makes hard negatives count more."""
