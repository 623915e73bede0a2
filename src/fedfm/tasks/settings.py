"""Settings of the task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings

TaskKind = Literal["text-classification", "image-classification", "masked-lm", "causal-lm", "instruct", "seq2seq", "preference"]


class TaskSettings(Settings):
    """The recipe's ``task``."""

    kind: TaskKind
    """Kind of the task: its input and what is predicted."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """β of `preference`: the larger it is, the less the model moves away from the initial one for the same loss."""
