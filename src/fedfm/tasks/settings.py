"""Settings of the task."""

from __future__ import annotations

from typing import Literal

from fedfm.settings import Settings

TaskKind = Literal["text-classification", "image-classification", "masked-lm", "causal-lm", "instruct", "seq2seq"]


class TaskSettings(Settings):
    """The recipe's ``task``."""

    kind: TaskKind
    """Kind of the task: its input and what is predicted."""
