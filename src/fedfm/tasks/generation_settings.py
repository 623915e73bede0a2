"""Settings of how a language model writes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedfm.settings import Settings


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
