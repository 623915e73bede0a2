"""Settings of the task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedfm.settings import Settings

TaskKind = Literal[
    "text-classification",
    "image-classification",
    "masked-lm",
    "causal-lm",
    "instruct",
    "seq2seq",
    "retrieval",
    "preference",
]

Pooling = Literal["mean", "cls"]


class GenerationSettings(Settings):
    """The recipe's ``evaluate.generate``: how a language model writes."""

    examples: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Test examples that the model answers before round 1 and after the last, for `samples.json`, the report and the
    metrics of written answers; 0: none."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Tokens of an answer at most; it ends earlier with an end token."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """0: always the most probable token. Above: tokens are drawn; at 1 by the model's own probabilities, and the higher
    it is, the more evenly."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw from the most probable tokens that together have this probability."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Draw from so many most probable tokens; null: all."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Of what is drawn; null: the recipe's seed. Each row has random choices of its own, so that a row gets the same
    answer whatever other rows there are."""


class TaskSettings(Settings):
    """The recipe's ``task``."""

    kind: TaskKind
    """Kind of the task: its input and what is predicted."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """β of `preference`: the larger it is, the less the model moves away from the initial one for the same loss."""
    pooling: Pooling = "mean"
    """How `retrieval` makes one embedding of a text: the `mean` of its tokens' last hidden states, or the first token's
    (`cls`)."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 0.05
    """τ of `retrieval`: similarities are divided by it before the softmax; smaller makes hard negatives count more."""
